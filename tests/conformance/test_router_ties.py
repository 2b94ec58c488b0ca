"""Near ties of routers: a right engine may take the other expert there, is counted, and fails anywhere else."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from genqual.conformance.judgement import FP32_LIMIT
from genqual.conformance.judges.free_run import ByOracle
from genqual.conformance.judges.logits import judge_free_run, judge_same, judge_scores, steps_of
from genqual.conformance.judges.logprobs import judge_top
from genqual.conformance.judges.self_checks import rows_of
from genqual.conformance.oracle.core import At
from genqual.conformance.oracle.experts import Mixture
from genqual.conformance.oracle.registry import architecture_of, oracle_for
from genqual.conformance.oracle.router import Router, Routing
from genqual.conformance.oracle.streamed import StreamedOracle, stream_key
from genqual.conformance.oracle.streamed_state import StreamState
from genqual.conformance.references.make import Reference, make, read, with_envelope, write
from genqual.conformance.router_ties import near_cells, near_ties
from genqual.conformance.scores import scores_of
from genqual.engines.base import TokenBatch
from genqual.errors import BadInput
from genqual.session.fixture_types import Drawn, ScoringSample

from .pretend import noise, referred

F64 = NDArray[np.float64]
Places = Collection[tuple[int, int]]  # (layer, position)

CONFIG: dict[str, Any] = {
    "model_type": "qwen3_moe",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 20,
    "norm_topk_prob": True,
}
PROMPTS = [[7, 8, 9], [10, 11], [3, 4, 5, 6], [12, 60, 3]]
STEPS = 8
TIED = 1
"""The row whose last prompt token has a tie, at position 1, that is at step 0."""


def weights(seed: int = 0) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    shapes = architecture_of(CONFIG).declared(CONFIG)[0].shapes()
    scale = {name: 1.2 / np.sqrt(shape[-1]) if len(shape) > 1 else 0.1 for name, shape in shapes.items()}
    return {n: random.standard_normal(s) * scale[n] + (len(s) == 1) for n, s in sorted(shapes.items())}


def tied(layer: int, gap: float = 1e-8) -> dict[str, Any]:
    """Weights whose router of `layer` has second and third expert `gap` apart at the last prompt token of TIED."""
    arrays = weights()
    seen: list[F64] = []
    with watched(lambda self, x, at: seen.append(x) if at.index == layer else None):
        oracle_for(CONFIG, arrays).logits(PROMPTS[TIED])
    name, x = f"model.layers.{layer}.mlp.gate.weight", seen[0][-1]
    order = np.argsort(-(arrays[name] @ x))
    gate = arrays[name].copy()
    gate[order[2]] += ((gate[order[1]] - gate[order[2]]) @ x - gap) / (x @ x) * x
    return {**arrays, name: gate}


@contextmanager
def watched(look: Any) -> Iterator[None]:
    """Mixtures call `look(self, x, at)` first."""
    original = Mixture.__call__

    def call(self: Mixture, x: F64, at: At) -> F64:
        look(self, x, at)
        return original(self, x, at)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Mixture, "__call__", call)
        yield


@contextmanager
def flipping(places: Places) -> Iterator[None]:
    """Routers take the next expert in place of their last choice, at `places`."""
    here: list[tuple[int, int]] = [(0, 0)]
    original = Router.route

    def route(self: Router, logits: F64, correction: F64 | None = None) -> Routing:
        layer, first = here[0]
        moved = logits.copy()
        for token, row in enumerate(moved):
            if (layer, first + token) in places:
                order = np.argsort(-row)
                last, following = order[self.top_k - 1], order[self.top_k]
                row[[last, following]] = row[[following, last]]
        return original(self, moved, correction)

    with pytest.MonkeyPatch.context() as patch, watched(lambda _, __, at: here.__setitem__(0, (at.index, at.first))):
        patch.setattr(Router, "route", route)
        yield


def engine(
    arrays: dict[str, Any], reference: Reference, places: Mapping[int, Places], seed: int = 0, sigma: float = 1e-7
) -> F64:
    """Logits (steps, rows, vocabulary) of an engine of rounding `sigma` that takes other experts in a row's places."""
    oracle, rows = oracle_for(CONFIG, arrays), []
    for row, prompt in enumerate(reference.prompts):
        with flipping(places.get(row, ())):
            rows.append(oracle.logits([*prompt, *reference.forced[row, :-1]])[len(prompt) - 1 :])
    logits = np.stack(rows, axis=1)
    return logits + noise(logits.shape, seed, sigma)


def judged(arrays: dict[str, Any], reference: Reference, places: Mapping[int, Places], dtype: str = "fp32") -> Any:
    logits = engine(arrays, reference, places, sigma=1e-7 if dtype == "fp32" else 1e-3)
    return judge_scores(scores_of(logits, reference.forced), reference, dtype=dtype)


def reference_of(arrays: dict[str, Any]) -> Reference:
    return make("mixture", "f" * 64, oracle_for(CONFIG, arrays), PROMPTS, STEPS)


MIDDLE, LAST = tied(1), tied(2)
OF_MIDDLE, OF_LAST = reference_of(MIDDLE), reference_of(LAST)


def test_a_reference_keeps_how_near_each_choice_was_for_each_token_and_layer() -> None:
    margins = OF_MIDDLE.router_margins
    assert margins is not None
    assert margins.shape == (4, 4 + STEPS - 1, 3)
    assert margins.dtype == np.float32
    for row, prompt in enumerate(PROMPTS):
        seen: dict[tuple[int, int], float] = {}
        known = len(prompt) + STEPS - 1

        def look(part: Mixture, x: F64, at: At, seen: dict[tuple[int, int], float] = seen) -> None:
            w = at.weights[f"{part.gate.name}.weight"]
            for token, given in enumerate(x):
                ordered = np.sort(w @ given)[::-1]
                size = np.sqrt(sum((w[e] * given) @ (w[e] * given) for e in range(6)) / 6)
                seen[token, at.index] = float((ordered[1] - ordered[2]) / 2 / size)

        with watched(look):
            oracle_for(CONFIG, MIDDLE).logits([*prompt, *OF_MIDDLE.forced[row, :-1]])
        want = [[seen[token, layer] for layer in range(3)] for token in range(known)]
        np.testing.assert_allclose(margins[row, :known], want, rtol=1e-5)
        assert np.isinf(margins[row, known:]).all()
    near = np.argwhere(margins <= 1e-5).tolist()
    assert near == [[TIED, len(PROMPTS[TIED]) - 1, 1]], "the tie that was made, and no other"


def test_the_right_engine_passes_and_nothing_is_left_out() -> None:
    verdict = judged(MIDDLE, OF_MIDDLE, {})
    assert verdict.passed, verdict.explanation
    assert (verdict.judged, verdict.total) == (32, 32)
    assert "0 of 32 cells took another expert" in verdict.explanation


def test_the_other_expert_of_a_near_tie_passes_and_is_counted() -> None:
    verdict = judged(MIDDLE, OF_MIDDLE, {TIED: {(1, 1)}})
    assert verdict.passed, verdict.explanation
    assert f"{32 - verdict.judged} of 32 cells took another expert at a near tie" in verdict.explanation
    assert 24 <= verdict.judged < 32, "the cell of the tie, and those of its row that look back on it"
    blind = replace(OF_MIDDLE, router_margins=None)
    assert judged(MIDDLE, blind, {TIED: {(1, 1)}}).status == "fail", "it is the margin that excuses"


def test_a_tie_in_the_last_layer_excuses_its_own_cell_alone() -> None:
    verdict = judged(LAST, OF_LAST, {TIED: {(2, 1)}})
    assert verdict.passed, verdict.explanation
    assert verdict.judged == 31
    also = judged(LAST, OF_LAST, {TIED: {(2, 1), (2, 4)}})
    assert also.status == "fail"
    assert "step 3 of prompt 1" in also.explanation


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("row", [0, 2, 3])
def test_another_expert_elsewhere_fails(layer: int, row: int) -> None:
    for position in range(len(PROMPTS[row]) - 1, len(PROMPTS[row]) + STEPS - 1, 3):
        verdict = judged(MIDDLE, OF_MIDDLE, {TIED: {(1, 1)}, row: {(layer, position)}})
        assert verdict.status == "fail", (position, verdict.explanation)
        assert f"of prompt {row}" in verdict.explanation


def test_a_tie_excuses_nothing_before_it() -> None:
    near = near_ties(np.array([[9.0, 9], [9, 9], [0, 9], [9, 9], [9, 0]]), 1, 4, 0.1)
    assert near.tolist() == [False, True, True, True]
    last = near_ties(np.array([[9.0, 9], [9, 0], [9, 9], [9, 9], [9, 0]]), 1, 4, 0.1)
    assert last.tolist() == [True, False, False, True]


def test_an_engine_that_takes_other_experts_everywhere_fails_though_ties_are_everywhere() -> None:
    margins = np.zeros_like(OF_MIDDLE.router_margins)
    everywhere = {row: {(layer, position) for layer in range(3) for position in range(12)} for row in range(4)}
    verdict = judged(MIDDLE, replace(OF_MIDDLE, router_margins=margins), everywhere)
    assert verdict.status == "fail"
    assert "more cells than the 50% that fault-free runs stay below took another expert" in verdict.explanation


def test_one_row_that_rests_on_a_tie_gets_no_verdict() -> None:
    row = OF_MIDDLE.select(rows=[TIED])
    logits = engine(MIDDLE, row, {0: {(1, 1)}})
    errors = np.abs(logits - engine(MIDDLE, row, {})).max(axis=-1)
    assert (errors > 1e-4).mean() > 0.5, "most of the row looks back on the tie"
    verdict = judge_scores(scores_of(logits, row.forced), row, dtype="fp32")
    assert verdict.status == "no_reference"
    assert "too few for a verdict" in verdict.explanation


def bf16() -> tuple[Reference, dict[str, Any]]:
    """With the envelope of a coarse scheme: two runs, of which one took another expert at a tie within its rounding."""
    arrays = tied(1, gap=1e-3)
    bare = reference_of(arrays)
    runs = {
        f"run {n}": scores_of(engine(arrays, bare, {TIED: {(1, 1)}} if n else {}, seed=n, sigma=2e-3), bare.forced)
        for n in (0, 1)
    }
    with pytest.raises(BadInput, match=r"apart|is off by"):
        with_envelope(replace(bare, router_margins=None), "bf16", runs)
    return with_envelope(bare, "bf16", runs), arrays


def test_an_envelope_leaves_out_what_took_another_expert() -> None:
    reference, arrays = bf16()
    envelope = reference.envelopes["bf16"]
    out = np.isnan(envelope.errors)
    assert not out[0].any()
    assert set(np.argwhere(out[1])[:, 1]) == {TIED}
    spread = float(np.sqrt((reference.spread**2).mean()))
    assert envelope.nrms == pytest.approx(2e-3 / spread, rel=0.1), "the rounding alone, without the other expert"
    near = near_cells(reference, 3 * envelope.nrms)
    assert near is not None
    far = int((~near.any(axis=0)).argmax())
    assert not near[:, far].any(), "a row without any tie"
    for places, passes in (({TIED: {(1, 1)}}, True), ({}, True), ({far: {(1, len(PROMPTS[far]))}}, False)):
        logits = engine(arrays, reference, places, seed=5, sigma=2e-3)
        verdict = judge_scores(scores_of(logits, reference.forced), reference, dtype="bf16")
        assert verdict.passed == passes, verdict.explanation
    part = reference.select(rows=[0, TIED], steps=5)
    assert np.isfinite(part.envelopes["bf16"].sigma).all()
    assert part.envelopes["bf16"].nrms == pytest.approx(2e-3 / spread, rel=0.2)


def test_files_keep_the_margins_and_those_of_before_have_none(tmp_path: Path) -> None:
    reference, _ = bf16()
    write(reference, tmp_path / "new")
    again = read(tmp_path / "new")
    np.testing.assert_array_equal(again.router_margins, reference.router_margins)
    np.testing.assert_array_equal(again.envelopes["bf16"].errors, reference.envelopes["bf16"].errors)
    old, _ = referred()
    write(old, tmp_path / "old")
    assert read(tmp_path / "old").router_margins is None
    assert near_cells(old, 1.0) is None


def test_a_part_of_a_reference_keeps_its_rows_margins() -> None:
    assert OF_MIDDLE.router_margins is not None
    part = OF_MIDDLE.select(rows=[2, TIED], steps=3)
    np.testing.assert_array_equal(part.router_margins, OF_MIDDLE.router_margins[[2, TIED], :6])
    kept = part.router_margins
    assert kept is not None
    for wrong in (kept[:1], kept[..., 0], -kept):
        with pytest.raises(ValueError, match="router_margins"):
            replace(part, router_margins=wrong)


def test_a_streamed_oracle_says_the_same_margins(tmp_path: Path) -> None:
    state = StreamState(tmp_path, stream_key(CONFIG, "f" * 64, PROMPTS, STEPS))
    streamed = StreamedOracle(CONFIG, MIDDLE, PROMPTS, STEPS, state)
    streamed.run()
    made = make("mixture", "f" * 64, streamed, PROMPTS, STEPS)
    np.testing.assert_array_equal(made.tokens, OF_MIDDLE.tokens)
    assert made.router_margins is not None
    assert OF_MIDDLE.router_margins is not None
    np.testing.assert_allclose(made.router_margins, OF_MIDDLE.router_margins, rtol=1e-5, atol=1e-9)


def test_two_runs_of_one_engine_may_part_at_a_tie_of_a_text_that_is_known() -> None:
    def scored(places: dict[int, Places], seed: int) -> Any:
        return scores_of(engine(MIDDLE, OF_MIDDLE, places, seed=seed), OF_MIDDLE.forced)

    plain, tie, elsewhere = scored({}, 1), scored({TIED: {(1, 1)}}, 2), scored({0: {(1, 4)}}, 2)
    assert judge_same(plain, tie, dtype="fp32", text=OF_MIDDLE).passed
    assert judge_same(plain, scored({}, 2), dtype="fp32", text=OF_MIDDLE).judged == 32
    assert judge_same(plain, tie, dtype="fp32").status == "fail"
    assert judge_same(plain, elsewhere, dtype="fp32", text=OF_MIDDLE).status == "fail"


def test_a_passage_knows_the_ties_of_the_rows_it_is_told() -> None:
    def scored(places: dict[int, Places], seed: int) -> Any:
        return scores_of(engine(MIDDLE, OF_MIDDLE, places, seed=seed), OF_MIDDLE.forced)

    passage = ScoringSample(TokenBatch.of(PROMPTS), OF_MIDDLE.forced, OF_MIDDLE)
    plain, tie = scored({}, 1), scored({TIED: {(1, 1)}}, 2)
    assert passage.same(plain, tie, dtype="fp32", rows=passage.every_row).passed
    order = [3, TIED, 0]
    assert passage.same(rows_of(plain, order), rows_of(tie, order), dtype="fp32", rows=order).passed
    for rows in (None, [0, 1, 3, 2][::-1]):
        assert passage.same(plain, tie, dtype="fp32", rows=rows).status == "fail", rows
    with pytest.raises(ValueError, match="scores of 4 rows"):
        passage.same(plain, tie, dtype="fp32", rows=[0, 1, 2])
    other = ScoringSample(TokenBatch.of(PROMPTS), (OF_MIDDLE.forced + 1) % 64, OF_MIDDLE)
    assert other.same(plain, tie, dtype="fp32", rows=other.every_row).status == "fail", "another text"


def test_an_oracle_knows_the_ties_of_rows_that_no_reference_holds() -> None:
    def scored(places: dict[int, Places], seed: int) -> Any:
        return scores_of(engine(MIDDLE, OF_MIDDLE, places, seed=seed), OF_MIDDLE.forced)

    passage = ScoringSample(TokenBatch.of(PROMPTS), OF_MIDDLE.forced, OF_MIDDLE)
    drawn = Drawn(passage.texts, ByOracle(lambda: oracle_for(CONFIG, MIDDLE)))
    plain, tie, elsewhere = scored({}, 1), scored({TIED: {(1, 1)}}, 2), scored({0: {(1, 4)}}, 2)
    found = passage.same(plain, tie, dtype="fp32", drawn=drawn)
    assert found.passed
    assert found.judged is not None
    assert found.judged < 32, "what took another expert is left out"
    assert passage.same(plain, elsewhere, dtype="fp32", drawn=drawn).status == "fail", "no tie is near there"
    twice = Drawn([passage.texts[TIED]] * 2, drawn.rescore)
    few = passage.same(rows_of(plain, [TIED] * 2), rows_of(tie, [TIED] * 2), dtype="fp32", drawn=twice)
    assert few.status == "no_reference", "more than half of a few rows is no verdict"
    assert Drawn(passage.texts, lambda ids: np.zeros((len(ids), 64))).ties() is None, "a rescore that knows no routers"
    logits = engine(MIDDLE, OF_MIDDLE, {})
    logits[0] += 2.5 * 2**0.5 * FP32_LIMIT * OF_MIDDLE.pooled_spread * noise(logits[0].shape, 3, 1.0)
    less = scores_of(logits, OF_MIDDLE.forced)
    for row, status in ((TIED, "pass"), (0, "fail")):
        two = [steps_of(rows_of(one, [row]), 3) for one in (plain, less)]
        text = Drawn([passage.texts[row][: len(PROMPTS[row]) + 3]], drawn.rescore)
        assert passage.same(two[0], two[1], dtype="fp32", drawn=text).status == status, "2.5 sigma, of three cells"


def generated(arrays: dict[str, Any], places: Mapping[int, Places]) -> NDArray[np.int64]:
    """What an engine chooses by itself, (rows, steps)."""
    rows, oracle = [], oracle_for(CONFIG, arrays)
    for row, prompt in enumerate(PROMPTS):
        with flipping(places.get(row, ())):
            rows.append(oracle.greedy(prompt, STEPS))
    return np.stack(rows)


def parting(reference: Reference, arrays: dict[str, Any]) -> NDArray[np.int64]:
    tokens = generated(arrays, {TIED: {(1, 1)}})
    assert (tokens[TIED] != reference.forced[TIED]).any(), "the other expert changes the text"
    return tokens


@pytest.mark.parametrize("scoring", ["alone", "with margins", "no oracle"])
def test_a_free_run_may_leave_the_text_at_a_tie(scoring: str) -> None:
    oracle: Any = oracle_for(CONFIG, MIDDLE)
    way = {"alone": oracle.logits, "with margins": ByOracle(lambda: oracle), "no oracle": None}[scoring]
    tokens = parting(OF_MIDDLE, MIDDLE)
    verdict = judge_free_run(tokens, OF_MIDDLE, dtype="fp32", rescore=way)
    assert verdict.passed, verdict.explanation
    assert "near tie" in verdict.explanation
    assert verdict.judged < verdict.total
    assert judge_free_run(tokens, replace(OF_MIDDLE, router_margins=None), dtype="fp32", rescore=way).status == "fail"
    elsewhere = generated(MIDDLE, {0: {(0, 1), (1, 2), (2, 2)}})
    assert (elsewhere[0] != OF_MIDDLE.forced[0]).any()
    assert judge_free_run(elsewhere, OF_MIDDLE, dtype="fp32", rescore=way).status == "fail"


def top_of(arrays: dict[str, Any], tokens: NDArray[np.int64], places: Mapping[int, Places]) -> tuple[Any, Any]:
    oracle, rows = oracle_for(CONFIG, arrays), []
    for row, prompt in enumerate(PROMPTS):
        with flipping(places.get(row, ())):
            logits = oracle.logits([*prompt, *tokens[row, :-1]])[len(prompt) - 1 :]
        rows.append(logits - np.log(np.exp(logits).sum(-1, keepdims=True)))
    exact = np.stack(rows, axis=1)
    ids = np.argsort(-exact, axis=-1)[..., :5]
    return ids, np.take_along_axis(exact, ids, axis=-1)


def test_the_best_log_probabilities_of_the_other_expert_pass_too() -> None:
    oracle: Any = oracle_for(CONFIG, MIDDLE)
    cases: list[tuple[Mapping[int, Places], bool]] = [({TIED: {(1, 1)}}, True), ({0: {(1, 2)}}, False)]
    for places, passes in cases:
        tokens = generated(MIDDLE, places)
        ids, logprobs = top_of(MIDDLE, tokens, places)
        verdict = judge_top(tokens, ids, logprobs, OF_MIDDLE, dtype="fp32", rescore=ByOracle(lambda: oracle))
        assert verdict.passed == passes, verdict.explanation
        assert "took another expert at a near tie" in verdict.explanation
    blind = replace(OF_MIDDLE, router_margins=None)
    tokens = generated(MIDDLE, {TIED: {(1, 1)}})
    ids, logprobs = top_of(MIDDLE, tokens, {TIED: {(1, 1)}})
    assert judge_top(tokens, ids, logprobs, blind, dtype="fp32", rescore=oracle.logits).status == "fail"
