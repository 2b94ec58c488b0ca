"""Who is named of two ranks that change cores: the rank, the core, or nobody; and why where nothing can be said."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from genqual.health.checks import rank_steps
from genqual.health.checks.base import Node
from genqual.health.checks.rank_steps import RankSteps
from genqual.health.finding import Finding
from tests.here import CPU

CORES = tuple(sorted(os.sched_getaffinity(0)))
needs_two = pytest.mark.skipif(len(CORES) < 2, reason="one core has no room for two ranks")


def found(tmp_path: Path, check: RankSteps, cores: tuple[int, ...] = (4, 7)) -> dict[str, Finding]:
    return {one.entity: one for one in check.run(Node(CPU, cores, tmp_path), 25.0)}


def times(*, rank: float = 1.0, core: float = 1.0) -> list[np.ndarray]:
    """CPU seconds (runs, steps) by rank; the second rank, or the second core, takes so much longer."""
    noise = np.exp(0.005 * np.random.default_rng(3).standard_normal((2, 120, 7)))
    noise[1] *= rank
    for run in range(120):
        noise[(1 + run) % 2, run] *= core  # rank r stands on core r + run
    return list(2e-3 * noise)


@pytest.mark.parametrize(
    ("slower", "named", "component"),
    [({"rank": 1.05}, "rank 1", "software"), ({"core": 1.05}, "core 7", "processor"), ({}, None, None)],
)
def test_the_rank_or_the_core_that_is_slow_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slower: dict[str, float], named: str | None, component: str | None
) -> None:
    monkeypatch.setattr(rank_steps, "measured", lambda generator, fault: times(**slower))
    said = found(tmp_path, RankSteps())
    assert set(said) == {"rank 0", "rank 1", "core 4", "core 7"}
    assert {name: one.component for name, one in said.items() if one.outcome == "bad"} == (
        {named: component} if named else {}
    )


def test_what_cannot_be_told_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (alone,) = found(tmp_path, RankSteps(), (4,)).values()
    assert alone.outcome == "unavailable"
    monkeypatch.setattr(rank_steps, "measured", lambda generator, fault: "no times here")
    (silent,) = found(tmp_path, RankSteps()).values()
    assert (silent.outcome, silent.evidence) == ("unavailable", "no times here")


@needs_two
@pytest.mark.heavy
def test_a_rank_that_computes_half_as_much_again_is_named_by_a_real_run(tmp_path: Path) -> None:
    slow = RankSteps(("genqual.faults.injectors.ranks:rank_slow", {"on_rank": 1, "share": 0.5}))
    said = found(tmp_path, slow, CORES[:2])
    assert [name for name, one in said.items() if one.outcome == "bad"] == ["rank 1"], said
