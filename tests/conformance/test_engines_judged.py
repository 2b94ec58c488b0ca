"""The whole path against real runs: transformers in fp32 and bf16, without a fault and with the two smallest."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from genqual.conformance.judges.logits import judge_free_run, judge_same, judge_scores
from genqual.conformance.oracle.registry import oracle_for
from genqual.conformance.references.make import Reference, make, with_envelope
from genqual.conformance.scores import scores_of
from genqual.engines.base import Scores

from .peers import MODELS, PROMPTS, STEPS, Peers, bf16_exact

FAULT_FREE = ("eager-prefill", "sdpa-decode")
WAYS = (*FAULT_FREE, "padded-decode")


def referred(name: str, peers: Peers) -> Reference:
    """A small model's reference, its bf16 envelope from two of transformers' three bf16 runs."""
    bare = make(name, "0", oracle_for(MODELS[name], bf16_exact(MODELS[name])), PROMPTS, STEPS)
    runs = {way: scores_of(peers[f"runs-{name}"][f"bf16.{way}"], bare.forced) for way in FAULT_FREE}
    return with_envelope(bare, "bf16", runs)


@pytest.fixture(scope="module", params=["llama", "bloom"])
def known(request: pytest.FixtureRequest, peers: Peers) -> tuple[str, Reference]:
    return str(request.param), referred(str(request.param), peers)


def scores(peers: Peers, case: str, run: str, reference: Reference) -> Scores:
    return scores_of(peers[f"runs-{case}"][run], reference.forced)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_honest_runs_pass(peers: Peers, known: tuple[str, Reference], dtype: str, way: str) -> None:
    name, reference = known
    verdict = judge_scores(scores(peers, name, f"{dtype}.{way}", reference), reference, dtype=dtype)
    assert verdict.passed, verdict.explanation
    assert verdict.nrms is not None
    assert verdict.nrms < (2e-6 if dtype == "fp32" else 0.05)


def test_bf16_in_the_fp32_lane_fails(peers: Peers, known: tuple[str, Reference]) -> None:
    name, reference = known
    assert not judge_scores(scores(peers, name, "bf16.sdpa-decode", reference), reference, dtype="fp32").passed


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_honest_free_runs_pass(peers: Peers, known: tuple[str, Reference], dtype: str) -> None:
    name, reference = known
    rescore = oracle_for(MODELS[name], bf16_exact(MODELS[name])).logits
    tokens: NDArray[np.int64] = peers[f"runs-{name}"][f"{dtype}.free"]
    verdict = judge_free_run(tokens, reference, dtype=dtype, rescore=rescore)
    assert verdict.passed, verdict.explanation
    assert verdict.judged == verdict.total


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_cache_and_padding_change_nothing(peers: Peers, known: tuple[str, Reference], dtype: str) -> None:
    name, reference = known
    a, b, c = (scores(peers, name, f"{dtype}.{way}", reference) for way in WAYS)
    for other in (b, c):
        verdict = judge_same(a, other, dtype=dtype, envelope=reference.envelopes["bf16"])
        assert verdict.passed, verdict.explanation
        assert judge_same(a, other, dtype=dtype).passed


@pytest.mark.parametrize("fault", ["theta", "sign"])
def test_the_smallest_faults_hide_in_bf16_and_show_in_fp32(peers: Peers, fault: str) -> None:
    reference = referred("llama", peers)
    single = judge_scores(scores(peers, fault, "fp32.sdpa-decode", reference), reference, dtype="fp32")
    assert single.status == "fail"
    assert single.nrms is not None
    assert single.nrms > 9e-5
    assert single.flips == 0
    half = judge_scores(scores(peers, fault, "bf16.sdpa-decode", reference), reference, dtype="bf16")
    assert half.passed
