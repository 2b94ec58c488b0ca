"""Our side of `time_to_verdict`: n conformance checks as n pytest items on one live group of ranks. No torch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from genqual.cases import Case
from genqual.devices.registry import device
from genqual.engines.base import TokenBatch
from genqual.engines.registry import engine
from genqual.models.spec import ModelSpec
from genqual.ranks.client import Generator
from genqual.ranks.group_spec import GroupPlan
from genqual.ranks.pool import Pool
from tests.benchmarks.verdict_model import prompt, reference
from tests.here import CPU

DIRECTORY = Path(os.environ.get("GENQUAL_VERDICT_MODEL", "."))
CHECKS = int(os.environ.get("GENQUAL_VERDICT_CHECKS", "0"))
RANKS = int(os.environ.get("GENQUAL_VERDICT_RANKS", "1"))


def wire(pool: Pool, directory: Path, ranks: int, logs: Path) -> Generator:
    """The only place here that knows how a group comes about."""
    name = "transformers" if ranks == 1 else "deepspeed-inference"
    place, spec = device(CPU), engine(name)
    plan = GroupPlan(
        case=Case(CPU, name, str(directory), "fp32", ranks),
        implementation=spec.implementation,
        model=ModelSpec("llama-tiny", "directory", str(directory), "llama"),
        placement=place.place(ranks, 1),
        torch_device=place.torch_device,
        backend=place.backend,
        logs=logs,
        options=dict(spec.options),
    )
    return Generator(pool, plan)


@pytest.fixture(scope="session")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Generator]:
    pool = Pool(1)
    yield wire(pool, DIRECTORY, RANKS, tmp_path_factory.mktemp("logs"))
    pool.close_all()


@pytest.fixture(scope="session")
def expected() -> tuple[list[list[int]], list[list[float]]]:
    found = reference(DIRECTORY)
    return found["tokens"], found["logsumexp"]


@pytest.mark.parametrize("index", range(CHECKS))
def test_logits_are_those_of_the_reference(
    group: Generator, expected: tuple[list[list[int]], list[list[float]]], index: int
) -> None:
    tokens, sums = expected
    forced = np.array([tokens[index]], dtype=np.int64)
    scores = group.score(TokenBatch.of([prompt(index)]), forced)
    assert scores.finite.all()
    assert np.array_equal(scores.top_ids[:, 0, 0], forced[0])
    assert np.allclose(scores.logsumexp[:, 0], sums[index], atol=1e-3)
