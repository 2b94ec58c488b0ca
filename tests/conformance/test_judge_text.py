"""Two texts that should be one, runs that should have stopped, and parts of a whole."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from genqual.cases import SCHEMES
from genqual.conformance.judgement import Judgement
from genqual.conformance.judges.logits import judge_bitwise, judge_same, steps_of
from genqual.conformance.judges.self_checks import judge_inputs
from genqual.conformance.judges.shards import (
    aligned,
    judge_drift,
    judge_evidence,
    judge_fetched,
    judge_shards,
    put_away,
    share_limit,
    spread,
)
from genqual.conformance.judges.text import judge_same_text, judge_stopped, stop_string, stopped
from genqual.conformance.scores import scores_of
from genqual.dtypes import DTYPES
from genqual.engines.base import Scores
from genqual.faults.matrix.other_rules import alarms

from .pretend import TableOracle, forced_logits, noise, referred, scored, table

TOKENS = np.array([[5, 7, 9, 7, 2], [4, 4, 8, 8, 8]])


@pytest.mark.parametrize(
    ("how", "want"),
    [
        ({"eos": [7]}, [[5, 7, 0, 0, 0], [4, 4, 8, 8, 8]]),
        ({"eos": [7, 4], "pad": 1}, [[5, 7], [4, 1]]),
        ({"eos": [7], "least": 2}, [[5, 7, 9, 7, 0], [4, 4, 8, 8, 8]]),
        ({"ends": [4, 3]}, [[5, 7, 9, 7], [4, 4, 8, 0]]),
        ({"eos": [9], "ends": [4, 5]}, [[5, 7, 9, 0, 0], [4, 4, 8, 8, 8]]),
        ({}, TOKENS.tolist()),
    ],
)
def test_where_a_run_has_to_stop(how: dict[str, object], want: list[list[int]]) -> None:
    assert stopped(TOKENS, **how).tolist() == want  # type: ignore[arg-type]


def read(row: Any) -> str:
    return bytes(row).decode("utf-8", "replace")


@pytest.mark.parametrize(
    ("prompt", "row", "want"),
    [
        (b"Say: ", b"abcdabcd", ("cd", 4)),
        (b"Say: ", b"abab----", ("ab", 2)),  # it was there before the two tokens that it was taken from
        (b"Say: b", b"abbbbbbb", ("bb", 3)),
        (b"a", b"b-ab----", ("b-", 2)),  # "ab" would begin in the prompt as well, and engines differ there
        (b"", b"  a  b  ", ("a", 3)),  # spaces at the ends are lost by some tokenizers
        (b"", "--\u00e9\u00e9\u00e9".encode(), None),  # nothing but halves of characters
        (b"", b"------xy", ("--", 2)),
    ],
)
def test_a_stop_string_is_whole_characters_and_ends_where_the_text_first_has_it(
    prompt: bytes, row: bytes, want: tuple[str, int] | None
) -> None:
    found = stop_string([list(prompt)], np.array([list(row)]), read)
    assert found == (None if want is None else (want[0], [want[1]]))


def test_other_tokens_that_spell_a_stop_string_stop_their_row_too() -> None:
    words = {1: "a", 2: "b", 3: "c", 4: "bc", 5: "xb", 6: "-"}
    tokens = np.array([[6, 1, 2, 3, 6, 6], [6, 4, 6, 6, 6, 6], [5, 3, 6, 6, 6, 6]])
    assert stop_string([[6]] * 3, tokens, lambda row: "".join(words[int(one)] for one in row)) == ("bc", [4, 2, 2])


def test_an_id_without_text_holds_no_stop_string() -> None:
    """A vocabulary wider than its tokenizer: `<421>` is how we show an id, and no engine finds a 1 in it."""
    words = {1: "1", 2: "-", 3: "b"}
    tokens = np.array([[421, 2, 1, 2, 2, 2], [2, 421, 421, 3, 3, 1]])
    assert stop_string([[2], [491]], tokens, lambda row: "".join(words.get(int(one), f"<{one}>") for one in row)) == (
        "1-",
        [4, 6],
    )
    ones = np.array([[421, 421, 1, 421, 421, 421]])
    assert stop_string([[421]], ones, lambda row: "".join(words.get(int(one), f"<{one}>") for one in row)) == ("1", [3])


def test_a_run_that_stops_elsewhere_fails_and_names_rank_row_and_step() -> None:
    want = stopped(TOKENS, eos=[7])
    assert judge_stopped([want, want], want, dtype="fp32", what="eos").passed
    late = want.copy()
    late[0, 2] = 9
    verdict = judge_stopped([want, late], want, dtype="fp32", what="eos [7]")
    assert not verdict.passed
    assert "eos [7]: rank 1 gave 9 at step 2 of prompt 0, 0 was due" in verdict.explanation
    assert not judge_stopped([want[:, :4]], want, dtype="fp32", what="eos").passed


def none_asked() -> Scores:
    raise AssertionError("texts that agree, or cannot be compared, need no scores")


def test_texts_may_part_only_where_the_margin_allows() -> None:
    reference, logits = referred()
    tokens, scores = reference.forced, scored(logits, reference)
    assert judge_same_text(tokens, tokens[:, :3], none_asked, dtype="fp32").passed
    other = tokens.copy()
    other[1, 2] = (other[1, 2] + 1) % 64
    verdict = judge_same_text(tokens, other, lambda: scores, dtype="fp32")
    assert not verdict.passed
    assert "step 2 of prompt 1" in verdict.explanation
    near = scored(logits.copy(), reference)
    top = near.top_logits.copy()
    top[2, 1, 1] = top[2, 1, 0]
    assert judge_same_text(tokens, other, lambda: replace(near, top_logits=top), dtype="fp32").passed
    assert not judge_same_text(tokens, other[:2], none_asked, dtype="fp32").passed
    lost = scores.finite.copy()
    lost[2, 1] = False
    infinite = replace(near, top_logits=top, finite=lost)
    assert not judge_same_text(tokens, other, lambda: infinite, dtype="fp32").passed
    short = scores_of(logits[:2], tokens[:, :2])
    assert not judge_same_text(tokens, other, lambda: short, dtype="fp32").passed


def test_texts_may_part_where_a_router_is_near_a_tie() -> None:
    reference, logits = referred()
    tokens, scores = reference.forced, scored(logits, reference)
    rows, steps = tokens.shape
    other = tokens.copy()
    other[1, 2] = (other[1, 2] + 1) % 64
    asked: list[int] = []

    def ties(*near: tuple[int, int, int]) -> Any:
        """Margins (positions, layers) of rows whose prompts have three tokens, 0 at each (row, position, layer)."""
        margins = np.ones((rows, 2 + steps, 2))
        for one in near:
            margins[one] = 0.0

        def of() -> list[Any]:
            asked.append(len(near))
            return list(margins)

        return of

    def status(*near: tuple[int, int, int], parted: Any = other) -> str:
        return judge_same_text(tokens, parted, lambda: scores, dtype="fp32", ties=ties(*near)).status

    assert status((1, 4, 1)) == "pass", "its own choice, in the last layer"
    assert status((1, 0, 0)) == "pass", "an earlier token, through attention"
    assert status((1, 3, 1)) == "fail", "an earlier token's last layer, which nobody looks back at"
    assert status((1, 5, 0)) == "fail", "a later token"
    assert status((0, 4, 0)) == "fail", "another row"
    asked.clear()
    assert status((1, 4, 1), parted=tokens) == "pass"
    assert asked == [], "nothing is asked of an oracle where the texts agree"


def test_a_drift_that_is_too_small_is_another_dtype() -> None:
    reference, logits = referred()
    fault_free = scored(logits + noise(logits.shape, 7), reference)
    exact = scored(logits + noise(logits.shape, 7, sigma=0.002), reference)
    assert judge_drift(fault_free, reference, dtype="bf16").passed
    verdict = judge_drift(exact, reference, dtype="bf16")
    assert not verdict.passed
    assert "more exact than bf16 can be" in verdict.explanation
    assert judge_drift(scored(logits, reference), reference, dtype="fp32").passed
    assert judge_drift(exact, None, dtype="bf16").status == "no_reference"


def test_a_damaged_share_of_the_vocabulary_is_named() -> None:
    reference, logits = referred()
    whole = replace(scored(logits, reference), logits=logits.astype("f4"))
    assert judge_shards(whole, whole, dtype="fp32", parts=8, limit=1e-5).passed
    wrong = logits.copy()
    wrong[..., 24:32] += 0.01 * np.sin(np.arange(8))
    with_fault = replace(scored(wrong, reference), logits=wrong.astype("f4"))
    verdict = judge_shards(with_fault, whole, dtype="fp32", parts=8, limit=1e-5)
    assert not verdict.passed
    assert "ids 24 to 31" in verdict.explanation
    assert not judge_shards(replace(whole, logits=None), whole, dtype="fp32", parts=8, limit=1e-5).passed


def test_shares_are_of_cells_that_took_the_same_experts() -> None:
    reference, logits = referred()
    margins = np.ones((reference.rows, reference.longest - 1, 2), dtype=np.float32)
    margins[1, len(reference.prompts[1]) + 1, 1] = 0.0  # the last layer at step 2 of row 1
    known = replace(reference, router_margins=margins)
    whole = replace(scored(logits, reference), logits=logits.astype("f4"))

    def judged(step: int, row: int, by: Any) -> Judgement:
        wrong = logits.copy()
        wrong[step, row] += 0.1 * by
        found = replace(scored(wrong, reference), logits=wrong.astype("f4"))
        return judge_shards(found, whole, dtype="fp32", parts=8, limit=1e-5, reference=known)

    other_expert = np.random.default_rng(3).standard_normal(logits.shape[-1])
    assert judged(2, 1, other_expert).status == "pass"
    assert "1 of" in judged(2, 1, other_expert).explanation
    assert judged(3, 1, other_expert).status == "fail", "no router is near a tie there"
    margins[:] = 0.0
    everywhere = replace(scored(logits + 1 * np.sin(logits), reference), logits=(logits + np.sin(logits)).astype("f4"))
    found = judge_shards(everywhere, whole, dtype="fp32", parts=8, limit=1e-5, reference=known)
    assert found.status == "fail", "what is wrong everywhere is no near tie"
    assert "Fault-free runs stay below 50%" in found.explanation


@pytest.mark.parametrize("dtype", [*DTYPES, *SCHEMES])
def test_a_scheme_without_an_envelope_has_no_limit_of_another_scheme(dtype: str) -> None:
    """The reference has an envelope of bf16 only: fp16 is eight times finer, int8 coarser: neither is known."""
    reference, logits = referred()
    whole = replace(scored(logits, reference), logits=logits.astype("f4"))
    for known in (reference, None):
        limit = share_limit(known, dtype)
        verdict = judge_shards(whole, whole, dtype=dtype, parts=8, limit=limit)
        if dtype == "fp32" or (known is not None and dtype in known.envelopes):
            assert verdict.passed
        else:
            assert (limit, verdict.status) == (None, "no_reference")
            assert f"No envelope of {dtype}" in verdict.explanation
    assert share_limit(reference, "bf16") == pytest.approx(2 * 2**0.5 * reference.envelopes["bf16"].nrms)
    assert share_limit(reference, "fp32") == pytest.approx(2 * 2**0.5 * 1e-5), "two runs, and few ids"
    assert list(reference.envelopes) == ["bf16"]


def test_a_share_that_is_never_reached_fails() -> None:
    reference, logits = referred()
    whole = replace(scored(logits, reference), logits=logits.astype("f4"))
    top = np.where((whole.top_ids >= 32) & (whole.top_ids < 40), 0, whole.top_ids)
    verdict = judge_shards(replace(whole, top_ids=top), whole, dtype="fp32", parts=8, limit=1.0)
    assert "none of the ids 32 to 39" in verdict.explanation


GOOD: dict[str, Any] = {
    "dtypes": ["float32"],
    "fp32_exact": True,
    "tf32": {"matmul": False, "cudnn": False},
    "float32_matmul_precision": "highest",
    "operators": {"aten.mm": 3},
    "all_reduce": "gloo",
    "graph_hits": 4,
}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"dtypes": ["bfloat16", "float32"]}, "fp32 was declared"),
        ({"fp32_exact": False}, "less than fp32"),
        ({"tf32": {"matmul": True, "cudnn": False}}, "rank 1 allows TF32 in matmul for fp32"),
        ({"tf32": {"matmul": False, "cudnn": True}}, "rank 1 allows TF32 in cudnn for fp32"),
        ({"float32_matmul_precision": "high"}, "float32_matmul_precision=high"),
        ({"operators": {}}, "no operator"),
        ({"graph_hits": 0}, "never ran its graph"),
        ({"graphs": "compile", "graph_hits": 0}, "never ran its graph"),
        ({"graphs": "cuda", "graph_hits": 0}, "never ran its graph"),
        ({"graphs": "static", "cache_length": None}, "never ran its graph"),
        ({"graphs": "none"}, "never ran its graph"),
        ({"placement": "disk", "offloaded_tensors": 0}, "offloaded nothing, disk was asked for"),
        ({"all_reduce": "none"}, "reduces nothing"),
    ],
)
def test_evidence_that_is_not_what_was_asked_for(change: dict[str, Any], says: str) -> None:
    def verdict(*found: dict[str, Any], held: int = 60) -> Judgement:
        return judge_evidence(
            list(found),
            [held] * len(found),
            dtype="fp32",
            ranks=2,
            total=100,
            graph=True,
        )

    assert verdict(GOOD, GOOD).passed
    assert says in verdict(GOOD, {**GOOD, **change}).explanation
    assert "nothing is sharded" in verdict(GOOD, GOOD, held=95).explanation
    assert "all ranks together" in verdict(GOOD, GOOD, held=40).explanation


@pytest.mark.parametrize("kind", [{"graphs": "static", "cache_length": 128}, {"graphs": "hpu"}, {"graphs": "cuda"}])
def test_each_kind_of_graph_has_its_own_evidence(kind: dict[str, Any]) -> None:
    found = {**GOOD, **kind} | ({} if kind["graphs"] == "cuda" else {"graph_hits": None})
    assert judge_evidence([found], [100], dtype="fp32", ranks=1, total=100, graph=True).passed


@pytest.mark.parametrize(
    ("found", "over", "away"),
    [
        ({}, True, True),
        ({"placement": "split", "device_map": {"a": "cpu", "b": "cpu"}}, True, True),
        ({"placement": "auto", "device_map": {"": "cpu"}, "offloaded_tensors": 0}, False, False),
        ({"placement": "auto", "device_map": {"a": "0", "b": "cpu", "c": "disk"}, "offloaded_tensors": 9}, False, True),
        ({"placement": "auto", "device_map": {"a": "0", "b": "1"}, "offloaded_tensors": 0}, True, False),
    ],
)
def test_what_a_placement_of_its_own_choice_did(found: dict[str, Any], over: bool, away: bool) -> None:
    assert (spread([found]), put_away([found])) == (over, away)


def test_weights_are_aligned_unless_a_rank_says_that_some_are_not() -> None:
    assert aligned([{"unaligned": 0}, {}])
    assert not aligned([{"unaligned": 0}, {"unaligned": 3}])


@pytest.mark.parametrize(
    ("given", "passes"),
    [
        ({"aligned": True, "same_weights": True}, False),
        ({"aligned": False, "same_weights": True}, True),
        ({"aligned": False, "same_weights": False}, False),
    ],
)
def test_other_bits_are_no_fault_beside_weights_at_odd_addresses(given: dict[str, bool], passes: bool) -> None:
    reference, logits = referred()
    a = scored(logits, reference)
    other = replace(a, logsumexp=np.nextafter(a.logsumexp, np.inf))
    bits, same = (judge(a, other, dtype="fp32") for judge in (judge_bitwise, judge_same))
    assert (bits.passed, same.passed) == (False, True)
    assert judge_fetched(bits, same, **given).passed is passes
    assert ("their hashes differ" in judge_fetched(bits, same, **given).explanation) is not given["same_weights"]
    whole = judge_bitwise(a, a, dtype="fp32")
    assert judge_fetched(whole, same, **given) is whole, "the same bits"
    far = judge_same(a, replace(a, projections=a.projections * 1.01), dtype="fp32")
    assert not judge_fetched(bits, far, **given).passed


def test_bits_of_other_forced_tokens_may_be_left_out() -> None:
    reference, logits = referred()
    a = scored(logits, reference)
    b = scores_of(logits, (reference.forced + 1) % 64)
    assert not judge_bitwise(a, b, dtype="fp32").passed
    assert judge_bitwise(a, b, dtype="fp32", forced=False).passed
    with_fault = logits.copy()
    with_fault[4] += 1e-9
    late = scored(with_fault, reference)
    assert judge_bitwise(steps_of(a, 4), steps_of(late, 4), dtype="fp32").passed
    assert not judge_bitwise(steps_of(a, 6, first=3), steps_of(late, 6, first=3), dtype="fp32").passed


def test_written_inputs_are_named() -> None:
    assert judge_inputs([[], []], dtype="fp32").passed
    assert "rank 1 wrote to its ids" in judge_inputs([[], ["ids"]], dtype="fp32").explanation


def test_the_rules_of_others_alarm_where_they_should() -> None:
    reference, logits = referred()
    oracle = TableOracle(table())
    exact = forced_logits(oracle, reference)
    own = scored(logits, reference)
    same = alarms(reference.forced, own, replace(own, logits=logits.astype("f4")), reference, exact)
    assert not any(alarm for alarm, _ in same.values())
    other = reference.forced.copy()
    other[0, 1] = int(reference.top_ids[1, 0, 1])  # the second best: text differs, top 5 holds
    off = logits.copy()
    off[0, 0, 3] += 0.5
    said = alarms(other, own, replace(own, logits=off.astype("f4")), reference, exact)
    assert {rule: alarm for rule, (alarm, _) in said.items()} == {
        "rule exact text": True,
        "rule top 5": False,
        "rule dlogit 0.1": True,
        "rule dlogit 1": False,
    }
    other[0, 1] = int(reference.top_ids[1, 0, 9])
    lost = alarms(other, own, replace(own, logits=None), reference, exact)
    assert lost["rule top 5"][0]
    assert lost["rule dlogit 1"][0]
