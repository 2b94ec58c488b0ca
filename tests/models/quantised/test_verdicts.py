"""The suite's verdict on engines of quantised checkpoints: a right one passes, one block's scale off by two fails.

The reference is the oracle's on the checkpoint as its library wrote it; the engine under test is transformers, on that
checkpoint and on its copy with one scale halved.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genqual.conformance.judges.logits import judge_scores
from genqual.conformance.oracle.registry import oracle_for
from genqual.conformance.oracle.streamed import StreamedOracle, stream_key
from genqual.conformance.oracle.streamed_state import StreamState
from genqual.conformance.references.make import Reference, make, with_envelope
from genqual.conformance.scores import scores_of
from genqual.engines.base import Scores
from genqual.models import weights
from genqual.models.registry import resolve
from tests.models.quantised.asking import peer_logits

from .changing import CHECKPOINTS, NAMES, changed

STEPS = 6
PROMPTS = [[5, 77, 130, 9, 200], [41, 33, 18, 250, 7], [100, 101, 102, 103, 104]]
BF16 = "fp8-block"


def reference_of(name: str) -> Reference:
    spec = resolve(str(CHECKPOINTS / name))
    oracle = oracle_for(weights.config(spec), weights.read(spec))
    return make(name, weights.sha256(spec), oracle, PROMPTS, STEPS)


@pytest.fixture(scope="module")
def references() -> dict[str, Reference]:
    return {name: reference_of(name) for name in NAMES}


@pytest.fixture(scope="module")
def said(
    references: dict[str, Reference], tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, bool, str], Scores]:
    """The scores of each checkpoint, right and with a scale halved, in fp32; of one of them in bf16, too."""
    room = tmp_path_factory.mktemp("verdicts")
    asked = [(name, halved, "fp32") for name in NAMES for halved in (False, True)]
    asked += [(BF16, halved, "bf16") for halved in (False, True)]
    with_fault = {name: changed(name, room / name) for name in NAMES}
    questions: list[dict[str, Any]] = [
        {
            "path": str(with_fault[name] if halved else CHECKPOINTS / name),
            "dtype": dtype,
            "rows": PROMPTS,
            "forced": references[name].forced.tolist(),
        }
        for name, halved, dtype in asked
    ]
    found = zip(asked, peer_logits(room, questions), strict=True)
    return {key: scores_of(logits.astype(np.float64), references[key[0]].forced) for key, logits in found}


@pytest.mark.parametrize("name", NAMES)
def test_a_right_engine_passes_and_one_scale_off_by_two_fails(
    name: str, references: dict[str, Reference], said: dict[tuple[str, bool, str], Scores]
) -> None:
    right = judge_scores(said[name, False, "fp32"], references[name], dtype="fp32")
    wrong = judge_scores(said[name, True, "fp32"], references[name], dtype="fp32")
    assert right.passed, right.explanation
    assert not wrong.passed, wrong.explanation


def test_the_same_in_bf16_with_its_tolerance(
    references: dict[str, Reference], said: dict[tuple[str, bool, str], Scores]
) -> None:
    right = said[BF16, False, "bf16"]
    made = with_envelope(references[BF16], "bf16", {"eager": right, "once more": right})
    assert judge_scores(right, made, dtype="bf16").passed
    assert not judge_scores(said[BF16, True, "bf16"], made, dtype="bf16").passed


@pytest.mark.parametrize("name", ["fp8-block", "awq", "mxfp4"])
def test_the_streamed_oracle_says_the_same_of_a_quantised_checkpoint(
    name: str, references: dict[str, Reference], tmp_path: Path
) -> None:
    """Read layer by layer, its tables row by row."""
    spec = resolve(str(CHECKPOINTS / name))
    config = weights.config(spec)
    key = stream_key(config, weights.sha256(spec), PROMPTS, STEPS)
    oracle = StreamedOracle(config, weights.lazily(spec), PROMPTS, STEPS, StreamState(tmp_path / "state", key))
    oracle.run()
    made = make(name, weights.sha256(spec), oracle, PROMPTS, STEPS)
    assert np.array_equal(made.top_logits, references[name].top_logits)
    assert np.array_equal(made.tokens, references[name].tokens)
