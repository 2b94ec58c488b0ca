"""What one long text may read in declared mode: more of a trained model than of an embedded one, and no more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from genqual.cases import Case
from genqual.conformance.judgement import Judgement
from genqual.conformance.scores import scores_of
from genqual.errors import NotApplicable
from genqual.models import weights
from genqual.models.prompts import synthetic_rows
from genqual.session.context import Run
from genqual.session.options import Options
from genqual.session.selection import Selection
from suites.conformance import test_cache as cache
from suites.conformance import test_precision as precision
from tests.here import CPU

CASE = Case(CPU, "transformers", "llama-tiny", "bf16")
STEPS = 16
JUDGED = Judgement("pass", "fp32", "logits", "")


@pytest.mark.parametrize(
    ("envelopes", "factor", "passes"),
    [(1.1, {}, True), (1.5, {}, False), (1.5, {"factor": 2.5}, True), (2.3, {"factor": 2.5}, True),
     (2.8, {"factor": 2.5}, False)],
)  # fmt: skip
def test_the_limit_is_so_many_envelopes(
    envelopes: float, factor: dict[str, float], passes: bool, tmp_path: Path
) -> None:
    options = Options(state_dir=str(tmp_path))
    run = Run(options, Selection(options, ""), "run", lambda _: None)
    with threadpool_limits(limits=None):  # what the oracle sets is set back
        text = np.array(synthetic_rows(run.references.oracle(CASE.model).vocabulary, 1, 65, seed=3)[0])
        exact = run.references.oracle(CASE.model).logits(text[:-1])[-STEPS:]
    reference: Any = run.references.reference(CASE.model)
    size = envelopes * reference.envelopes["bf16"].nrms * float(np.sqrt(((exact.T - exact.mean(axis=1)) ** 2).mean()))
    noise = np.random.default_rng(1).normal(0.0, size, exact.shape)
    scores = scores_of((exact + noise)[:, None], text[None, -STEPS:])
    assert run.references.against_oracle(CASE, scores, text, STEPS, limit=1e-5, **factor).passed is passes
    run.close()


@pytest.mark.parametrize(("source", "factor"), [("embedded", 1.25), ("directory", 2.5)])
def test_a_trained_model_has_the_wider_one(source: str, factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "biased_by_distance", lambda model, declared: False)
    monkeypatch.setattr(precision, "positions_beyond", lambda model, declared: 0)  # a model without windows
    monkeypatch.setattr(precision, "settled_length", lambda model: None)  # whose frequencies stay
    asked: list[dict[str, Any]] = []
    generator: Any = SimpleNamespace(
        loaded=[SimpleNamespace(max_positions=64, vocabulary=512)],
        case=CASE,
        plan=SimpleNamespace(model=SimpleNamespace(source=source)),
        score_passes=lambda *given: given,
    )
    passage: Any = SimpleNamespace(texts=[[3, 4, 6, 7], [5, 8, 9]])

    def against_oracle(*given: Any, **known: Any) -> Judgement:
        asked.append(known)
        return JUDGED

    store = SimpleNamespace(against_oracle=against_oracle)
    run: Any = SimpleNamespace(references=store)
    precision.test_positions_near_the_limit(generator, passage, run, lambda judgement: None)
    assert asked == [{"limit": 1e-5, "factor": factor}]


@pytest.mark.parametrize(
    ("settled", "windows", "widths"),
    [
        (None, 0, [256, 256, 256, 256]),
        (4096, 0, [256, 256, 256, 256]),
        (512, 0, [768]),
        (900, 0, [1024]),
        (512, 2000, [768]),
        (4096, 2000, [*[256] * 7, 192, *[1] * STEPS]),
    ],
)
def test_one_pass_is_read_where_frequencies_follow_the_length(
    settled: int | None, windows: int, widths: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """longrope, dynamic: keys that earlier parts left behind were rotated by other frequencies than the oracle's."""
    monkeypatch.setattr(precision, "biased_by_distance", lambda model, declared: False)
    monkeypatch.setattr(precision, "positions_beyond", lambda model, declared: windows)
    monkeypatch.setattr(precision, "settled_length", lambda model: settled)
    asked: list[tuple[Any, ...]] = []
    generator: Any = SimpleNamespace(
        loaded=[SimpleNamespace(max_positions=8192, vocabulary=512)],
        case=CASE,
        plan=SimpleNamespace(model=SimpleNamespace(source="directory")),
        score_passes=lambda *given: asked.append(given),
    )
    store = SimpleNamespace(against_oracle=lambda *given, **known: JUDGED)
    passage, run = SimpleNamespace(texts=[[3, 4, 6, 7]]), SimpleNamespace(references=store)
    precision.test_positions_near_the_limit(generator, passage, run, lambda judgement: None)  # type: ignore[arg-type]
    batch, forced, read = asked[0]
    assert read == widths
    assert batch.ids.shape[1] + forced.shape[1] == sum(widths) + 1


@pytest.mark.parametrize(
    ("config", "positions", "biased", "total"),
    [
        ({"model_type": "bloom"}, None, True, 512),
        ({"model_type": "mpt", "max_seq_len": 200}, 200, True, 200),  # its biases are made for so many, and no more
        ({"model_type": "mpt", "attn_config": {"alibi": True}}, 2048, True, 512),
        ({"model_type": "falcon", "alibi": True}, 2048, True, 512),
        ({"model_type": "mpt", "attn_config": {"alibi": False}}, 2048, False, 1024),
        ({"model_type": "falcon", "alibi": False}, 2048, False, 1024),
        (None, 2048, False, 1024),  # a hub id: what the engine says
        (None, None, True, 512),
    ],
)
def test_biases_by_distance_are_read_as_far_as_they_are_exact_and_made(
    config: dict[str, Any] | None, positions: int | None, biased: bool, total: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "config_if_here", lambda spec: config)
    monkeypatch.setattr(precision, "positions_beyond", lambda model, declared: 0)
    monkeypatch.setattr(precision, "settled_length", lambda model: None)
    asked: list[tuple[Any, ...]] = []
    generator: Any = SimpleNamespace(
        loaded=[SimpleNamespace(max_positions=positions, vocabulary=512)],
        case=replace(CASE, dtype="fp32"),
        plan=SimpleNamespace(model=SimpleNamespace(source="directory")),
        score_passes=lambda *given: asked.append(given),
    )
    store = SimpleNamespace(against_oracle=lambda *given, **known: JUDGED)
    passage, run = SimpleNamespace(texts=[[3, 4, 6, 7]]), SimpleNamespace(references=store)
    precision.test_positions_near_the_limit(generator, passage, run, lambda judgement: None)  # type: ignore[arg-type]
    assert sum(asked[0][2]) == total
    generator.case = replace(CASE, dtype="bf16")
    if biased:
        with pytest.raises(NotApplicable, match="ALiBi"):
            precision.test_positions_near_the_limit(generator, passage, run, lambda judgement: None)  # type: ignore[arg-type]
    else:
        precision.test_positions_near_the_limit(generator, passage, run, lambda judgement: None)  # type: ignore[arg-type]


def test_an_edge_beyond_the_positions_is_not_asked_for() -> None:
    """Learned positions end: an IndexError there is no fault of the engine."""
    generator: Any = SimpleNamespace(loaded=[SimpleNamespace(max_positions=96)])
    for edge, reached in ((32, True), (128, False)):
        with pytest.raises(AttributeError if reached else NotApplicable, match="forced" if reached else "96 positions"):
            cache.test_bucket_edges(generator, None, edge, None, lambda judgement: None)  # type: ignore[arg-type]
