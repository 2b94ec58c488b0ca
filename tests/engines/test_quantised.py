"""Quantisation: the weights shrank, 8-bit kernels computed, the error is that of 8 bits, and a lost scale shows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from .checks import fault_shows
from .conftest import FORCED
from .harness import LEVEL, ROWS, Answers, nrms, run

# Engine, scheme, and the operator that must have been given int8 numbers, once a quantised matrix.
RUNS = (
    ("transformers", "int8-weight", "aten._to_copy"),  # eager widens the integers, then multiplies
    ("transformers", "int8-dynamic", "aten._int_mm"),
    ("transformers", "int8-smoothquant", "aten._int_mm"),
    ("accelerate", "int8-bitsandbytes", "bitsandbytes.int8_mixed_scaled_mm"),
)
MODELS = ("llama-tiny", "bloom-tiny")
MATRICES = {"llama-tiny": 3 * 7, "bloom-tiny": 3 * 4}  # torchao takes the head, too
each = pytest.mark.parametrize(("engine", "scheme", "kernel"), RUNS)
each_model = pytest.mark.parametrize("model", MODELS)


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """Every scheme on both models, in one process."""
    plans: list[dict[str, Any]] = []
    forced = {"rows": ROWS, "forced": FORCED}
    for engine, scheme, _ in RUNS:
        for model in MODELS:
            key = f"{scheme}.{model}"
            asked: list[list[Any]] = [
                ["score", f"{key}.score", forced],
                ["score", f"{key}.again", forced],
                ["generate", f"{key}.level", {"rows": LEVEL, "new": 4}],
                ["facts", f"{key}.facts", {}],
                ["exact", f"{key}.exact", forced],
                ["faulty", f"{key}.lost_scale", {"name": "lost_scale"} | forced],
            ]
            plans.append({"engine": engine, "model": model, "dtype": scheme, "steps": asked})
    (answers,) = run(tmp_path_factory.mktemp("narrow"), *plans)
    return answers


@each
@each_model
def test_the_error_is_that_of_eight_bits(narrow: Answers, engine: str, scheme: str, kernel: str, model: str) -> None:
    key = f"{scheme}.{model}"
    assert 1e-2 < nrms(narrow[f"{key}.score.logits"], narrow[f"{key}.exact.logits"]) < 0.15
    assert np.array_equal(narrow[f"{key}.again.projections"], narrow[f"{key}.score.projections"])
    assert len(np.unique(narrow[f"{key}.level.tokens"])) > 2


@each
@each_model
def test_the_weights_shrank(narrow: Answers, eager: Answers, engine: str, scheme: str, kernel: str, model: str) -> None:
    in_bf16 = eager[f"{model}.facts.weight_bytes"] / 2
    assert narrow[f"{scheme}.{model}.facts.weight_bytes"] < 0.72 * in_bf16  # embeddings and norms stay as they were
    assert "int8" in narrow[f"{scheme}.{model}.facts.inspect"]["dtypes"]


@each
@each_model
def test_kernels_were_given_integers(narrow: Answers, engine: str, scheme: str, kernel: str, model: str) -> None:
    ran = narrow[f"{scheme}.{model}.facts.inspect"]["operators_8bit"]
    calls = sum(count for name, count in ran.items() if name.startswith(kernel))
    assert calls >= MATRICES[model], ran


@each
@each_model
def test_a_lost_scale_shows_and_changes_the_hash(
    narrow: Answers, engine: str, scheme: str, kernel: str, model: str
) -> None:
    key = f"{scheme}.{model}"
    fault_shows(narrow, key, "lost_scale")
    assert narrow[f"{key}.lost_scale.hash_with"] != narrow[f"{key}.facts.weight_hash"]


def test_schemes_differ_from_each_other(narrow: Answers) -> None:
    hashes = [narrow[f"{scheme}.{model}.facts.weight_hash"] for _, scheme, _ in RUNS for model in MODELS]
    assert len(set(hashes)) == len(hashes) - 2  # weight-only and dynamic keep the same integers


def test_the_log_is_not_flooded(narrow: Answers) -> None:
    assert "MatMul8bitLt: inputs will be cast" not in narrow.stderr
