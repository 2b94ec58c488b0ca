"""The envelope: what fault-free runs read, and what is refused as one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from genqual.conformance.references.make import with_envelope
from genqual.conformance.scores import scores_of
from genqual.conformance.tolerance import RoundingEnvelope
from genqual.engines.base import Scores
from genqual.errors import BadInput

from .pretend import SIGMA, noise, referred, scored

REFERENCE, LOGITS = referred()


def test_sigma_and_nrms_are_those_of_whole_logits() -> None:
    errors = [noise(LOGITS.shape, seed, sigma) for seed, sigma in ((1, SIGMA), (2, SIGMA * 1.1))]
    made = with_envelope(REFERENCE, "x", {str(i): scored(LOGITS + e, REFERENCE) for i, e in enumerate(errors)})
    centred = [e - e.mean(-1, keepdims=True) for e in errors]
    sigma = np.max([np.sqrt((e**2).mean(axis=(1, 2))) for e in centred], axis=0)
    pooled = max(float(np.sqrt((e**2).mean())) for e in centred) / np.sqrt(LOGITS.var(-1).mean())
    envelope = made.envelopes["x"]
    np.testing.assert_allclose(envelope.sigma, sigma, rtol=0.1)
    assert envelope.nrms == pytest.approx(pooled, rel=0.05)
    assert envelope.fault_free_runs == ("0", "1")
    assert envelope.errors.shape == (2, *REFERENCE.tokens.shape)
    assert set(made.envelopes) == {"bf16", "x"}


def test_runs_that_cannot_be_honest_found_no_envelope() -> None:
    good = scored(LOGITS + noise(LOGITS.shape, 1), REFERENCE)
    worse = scored(LOGITS + noise(LOGITS.shape, 2, 1.5 * SIGMA), REFERENCE)
    nan = scored(np.where(np.arange(64) == 5, np.nan, LOGITS), REFERENCE)
    short = scores_of(LOGITS[:2], REFERENCE.forced[:, :2])
    for runs, words in (
        ({}, "at least one"),
        ({"good": good, "worse": worse}, "apart"),
        ({"nan": nan}, "all finite: False"),
        ({"short": short}, "shape"),
        ({"exact": scored(LOGITS, REFERENCE)}, "no error at all"),
    ):
        with pytest.raises(BadInput, match=words):
            with_envelope(REFERENCE, "bf16", runs)
    with pytest.raises(BadInput, match="fp32 has no envelope"):
        with_envelope(REFERENCE, "fp32", {"good": good})


def test_runs_of_a_mixture_of_experts_may_be_further_apart() -> None:
    """Where routers are known, tokens that took another expert move what follows by less than is left out."""
    margins = np.ones((REFERENCE.rows, REFERENCE.longest - 1, 2), dtype=np.float32)
    experts = replace(REFERENCE, router_margins=margins, sha256="")

    def runs(factor: float) -> dict[str, Scores]:
        return {str(s): scored(LOGITS + s * noise(LOGITS.shape, 1), REFERENCE) for s in (1.0, factor)}

    assert "bf16" in with_envelope(experts, "bf16", runs(1.4)).envelopes
    with pytest.raises(BadInput, match=r"more than 1\.25 apart"):
        with_envelope(REFERENCE, "bf16", runs(1.4))
    with pytest.raises(BadInput, match=r"more than 1\.5 apart"):
        with_envelope(experts, "bf16", runs(1.6))


def test_one_bad_cell_must_not_widen_the_envelope() -> None:
    many, logits = referred([[i] for i in range(40)], 20)
    run = logits + noise(logits.shape, 1)
    run[3, 17] += noise(run[3, 17].shape, 2, 1.5)
    with pytest.raises(BadInput, match=r"off by .* at step 3 of prompt 17"):
        with_envelope(many, "bf16", {"one": scored(run, many)})


def test_an_honest_run_must_pass_its_own_judgement() -> None:
    """Two logits changed places where the oracle is sure: too little for any pooled number."""
    many, logits = referred([[i] for i in range(40)], 20)
    step, row = (int(i) for i in np.argwhere((many.margins > 9 * SIGMA) & (many.margins < 12 * SIGMA))[0])
    run, two = logits + noise(logits.shape, 1, SIGMA / 2), many.top_ids[step, row, :2]
    run[step, row, two] = logits[step, row, two[::-1]]
    with pytest.raises(BadInput, match=rf"does not pass by its own envelope.*step {step} of prompt {row}"):
        with_envelope(many, "bf16", {"one": scored(run, many)})


def test_an_envelope_that_contradicts_itself_cannot_be_built() -> None:
    good = REFERENCE.envelopes["bf16"]
    for change in ({"nrms": 0.0}, {"nrms": np.nan}, {"sigma": good.sigma * 0}, {"sigma": good.sigma[:-1]}):
        with pytest.raises(ValueError, match=r"envelope|errors"):
            replace(good, **change)
    with pytest.raises(ValueError, match="errors"):
        RoundingEnvelope(good.nrms, good.sigma, good.errors, ("one",))


def test_scores_are_those_of_the_logits() -> None:
    logits = np.round(LOGITS, 1)  # many equals
    logits[1, 2, 3] = np.inf
    scores = scores_of(logits, REFERENCE.forced)
    assert scores.finite.sum() == 17
    assert not scores.finite[1, 2]
    for name in ("top_ids", "top_logits", "logsumexp", "forced_logit", "projections"):
        assert not getattr(scores, name)[1, 2].any(), name
    for step, row in np.argwhere(scores.finite):
        line = logits[step, row].tolist()
        order = sorted(range(64), key=lambda i: (-line[i], i))[:16]
        assert scores.top_ids[step, row].tolist() == order
        assert scores.top_logits[step, row].tolist() == [line[i] for i in order]
        assert scores.logsumexp[step, row] == pytest.approx(np.log(np.exp(line).sum()))
        assert scores.forced_logit[step, row] == line[REFERENCE.forced[row, step]]
    with pytest.raises(ValueError, match="at least 16"):
        scores_of(LOGITS[..., :15], REFERENCE.forced)
