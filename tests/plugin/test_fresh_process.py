"""The property that starts fresh processes judges what they say first, and starts them once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from genqual.cases import Case
from genqual.conformance.judgement import Judgement
from genqual.conformance.judges.self_checks import judge_first
from genqual.conformance.scores import scores_of
from genqual.engines.base import Scores, TokenBatch
from genqual.session.fixture_types import ScoringSample
from suites.conformance import test_repeat as repeat
from tests.here import CPU

PROMPTS = TokenBatch.of([[3, 4], [5], [6, 7], [8]])
FORCED = np.arange(32, dtype=np.int64).reshape(4, 8) % 20
LOGITS = np.random.default_rng(2).standard_normal((8, 4, 20))


class Process:
    """A pretended engine of processes: `wrong` are the requests since the start whose answers are 1 % off."""

    def __init__(self, engine: str, wrong: tuple[int, ...] = (), warm: float = 1.0) -> None:
        self.case = Case(CPU, engine, "llama-tiny", "fp32")
        self.wrong, self.warm = wrong, warm
        self.asked, self.starts = 0, 0
        self.plan = SimpleNamespace(tier="logits", options={})

    def score(self, prompts: TokenBatch, forced: Any) -> Scores:
        self.asked += 1
        return scores_of(LOGITS * (1.01 if self.asked in self.wrong else 1.0), FORCED)

    def restart(self) -> None:
        self.asked, self.starts = 0, self.starts + 1

    def first_answers(self) -> list[tuple[Any, Any]]:
        return [(LOGITS[0] * self.warm, LOGITS[0])] if self.starts else []


def judged(process: Process) -> Judgement:
    said: list[Judgement] = []
    passage = ScoringSample(PROMPTS, FORCED, None)
    repeat.test_a_fresh_process_gives_the_same_bits(process, passage, None, said.append)  # type: ignore[arg-type]
    assert process.starts == 1, "a process is expensive"
    (one,) = said
    return one


@pytest.mark.parametrize("engine", ["transformers", "openvino"])
def test_an_engine_that_is_right_from_its_first_answer_on_passes(engine: str) -> None:
    assert judged(Process(engine)).passed


@pytest.mark.parametrize("wrong", [(1,), (2,)])
def test_a_first_answer_that_is_wrong_in_every_process_is_found(wrong: tuple[int, ...]) -> None:
    """In the old process as well, where nobody had asked before: both first answers are then wrong alike."""
    assert not judged(Process("transformers", wrong)).passed


def test_the_pass_that_loading_ends_with_is_judged_where_it_is_shown() -> None:
    found = judged(Process("transformers", warm=1.01))
    assert not found.passed
    assert "the first pass of rank 0's process" in found.explanation
    assert judged(Process("openvino", warm=1.01)).passed  # it shows none


def test_a_rank_of_its_own_is_named() -> None:
    right = LOGITS[0]
    for wrong in (right * 1.01, right * np.nan, right[:, :3]):
        verdict = judge_first([(right, right), (wrong, right)], dtype="fp32")
        assert "the first pass of rank 1's process" in verdict.explanation
        assert not verdict.passed
    assert not judge_first([(right * np.nan, right * np.nan)], dtype="fp32").passed
    assert judge_first([(right, right.copy())], dtype="fp32").passed
