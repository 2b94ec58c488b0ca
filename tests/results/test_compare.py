from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from genqual.analysis.compare import ComparedMetric, Comparison, compare
from genqual.analysis.interval import ratio_interval
from genqual.records.fields import Outcome
from genqual.records.metric import Metric
from genqual.records.record import Record
from tests.results.make import record, timing, verdict

H100: dict[str, Any] = {"device": "cuda", "class_id": "h100", "run": "run-2"}


def metrics(scale: float = 1.0) -> tuple[Metric, ...]:
    steps = np.random.default_rng(3).lognormal(-4, 0.2, 31) * scale
    return (
        timing("tpot", tuple(steps.tolist()), value=float(np.median(steps))),
        timing("tokens_per_s", (100.0 / scale,), unit="tokens/s", better="higher"),
    )


def only(found: Comparison, metric: str = "tpot") -> ComparedMetric:
    (row,) = [row for row in found.rows if row.metric == metric]
    return row


def test_the_numbers_are_those_that_numpy_gives() -> None:
    a, b = record(metrics=metrics(1.0)), record(metrics=metrics(0.5), **H100)
    found = compare([a], [b])
    tpot, tokens = only(found), only(found, "tokens_per_s")
    ours, theirs = np.array(a.metrics[0].samples), np.array(b.metrics[0].samples)
    assert tpot.a == pytest.approx(np.median(ours))
    assert tpot.b == pytest.approx(np.median(theirs))
    assert tpot.speedup == pytest.approx(np.median(ours) / np.median(theirs))
    assert tokens.speedup == pytest.approx(200.0 / 100.0)  # higher is better: B over A
    assert tpot.interval == ratio_interval([a.metrics[0]], [b.metrics[0]])
    assert tokens.interval is None  # one sample
    assert tpot.refused is None


def test_the_interval_is_turned_as_the_speedup_is() -> None:
    def side(scale: float) -> tuple[Metric, ...]:
        samples = tuple((np.random.default_rng(5).lognormal(3, 0.1, 31) * scale).tolist())
        value = float(np.median(samples))
        return (timing("tokens_per_s", samples, value=value, unit="tokens/s", better="higher"),)

    row = only(compare([record(metrics=side(1.0))], [record(metrics=side(3.0), **H100)]), "tokens_per_s")
    assert row.speedup == pytest.approx(3.0)
    assert row.interval is not None
    assert row.interval[0] < 3.0 < row.interval[1] < 4.0


def test_turning_it_round_turns_the_speedup_round() -> None:
    a, b = record(metrics=metrics(1.0)), record(metrics=metrics(0.7), **H100)
    for name in ("tpot", "tokens_per_s"):
        there, back = only(compare([a], [b]), name).speedup, only(compare([b], [a]), name).speedup
        assert there is not None
        assert back is not None
        assert there * back == pytest.approx(1.0)


def test_attempts_of_a_run_are_taken_together_by_their_median() -> None:
    values = (0.010, 0.030, 0.011)
    a = [record(attempt=n, metrics=(timing(samples=(value,) * 5),)) for n, value in enumerate(values, start=1)]
    row = only(compare(a, [record(metrics=(timing(samples=(0.022,) * 5),), **H100)]))
    assert row.a == pytest.approx(np.median(values)) == 0.011
    assert row.speedup == pytest.approx(0.5)
    assert row.interval is not None
    assert row.interval[0] < 0.5 < row.interval[1]


def test_only_the_newest_run_counts() -> None:
    old = record(run="old", metrics=(timing(samples=(9.0,)),), created="2026-01-01T00:00:00.000000Z")
    new = record(run="new", metrics=(timing(samples=(1.0,)),))
    assert only(compare([new, old], [record(**H100)])).a == 1.0


@pytest.mark.parametrize(
    "change",
    [
        {"weights": "b" * 64},
        {"dtype": "fp32"},
        {"batch": 2},
        {"input_length": 33},
        {"new_tokens": 17},
        {"protocol": {"warmup": 1}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_rows_that_differ_in_what_was_measured_are_not_paired(change: dict[str, Any]) -> None:
    found = compare([record()], [record(**{**H100, **change})], ("mine", "theirs"))
    assert found.rows == ()
    assert [len(side) for side in (found.only_a, found.only_b)] == [1, 1]
    assert found.only_a[0].why.startswith("theirs has no such model, dtype, workload and definition; the closest")
    assert "llama-30m bf16 transformers b1-i32-n16 (xeon-6-2c)" in found.only_a[0].what


@pytest.mark.parametrize("change", [{"unit": "ms"}, {"statistic": "mean"}, {"definition": "wall / (b * n)"}])
def test_a_metric_that_is_defined_otherwise_gets_no_ratio(change: dict[str, Any]) -> None:
    rows = compare([record()], [record(metrics=(timing(**change),), **H100)]).rows
    assert [(row.speedup, row.a is None, row.b is None) for row in rows] == [(None, False, True), (None, True, False)]
    assert rows[0].refused is not None
    assert rows[0].refused.startswith(f"tpot is not the same metric: {next(iter(change))} ")


def test_each_engine_is_compared_with_itself() -> None:
    engines = ("transformers", "transformers-compiled", "deepspeed-inference")
    found = compare([record(engine=name) for name in engines], [record(engine=name, **H100) for name in engines])
    assert {row.engines for row in found.rows} == {(name, name) for name in engines}
    assert (found.only_a, found.only_b) == ((), ())


def test_one_engine_left_on_each_side_is_compared_and_said_to_be_unlike() -> None:
    found = compare(
        [record(), record(engine="deepspeed-inference", ranks=2)],
        [record(**H100), record(engine="optimum-habana", **H100)],
    )
    crossed = next(row for row in found.rows if row.engines[0] != row.engines[1])
    assert crossed.engines == ("deepspeed-inference x2", "optimum-habana")
    assert crossed.notes[:2] == (
        "unlike: engine deepspeed-inference against optimum-habana",
        "unlike: 2 ranks against 1",
    )


def test_several_candidates_are_not_paired_by_guess() -> None:
    found = compare([record()], [record(engine=name, **H100) for name in ("x", "y")], ("a", "b"))
    assert found.rows == ()
    assert (
        found.only_a[0].why
        == "b has it in several ways (x on h100, y on h100): choose one with #engine=NAME&class=NAME"
    )


def test_the_same_hardware_is_paired_before_other_hardware() -> None:
    """Two runs, each on two classes: each class is compared with itself."""
    side = [record(), record(device="cuda", class_id="h100")]
    found = compare(side, [one.model_copy(update={"run": "run-2"}) for one in side])
    assert len(found.rows) == 2
    assert all(row.speedup == 1.0 for row in found.rows)


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"options": {"graphs": True}}, "unlike: graphs None against True"),
        ({"used": 2}, "unlike: 1 places used against 2"),
        ({"ranks": 2}, "unlike: 1 ranks against 2"),
    ],
)
def test_what_is_unlike_is_said(change: dict[str, Any], note: str) -> None:
    assert note in only(compare([record()], [record(class_id="xeon-5-56c", **change)])).notes


def judged(**fields: Any) -> Record:
    return verdict(**{"model": "llama-tiny", "weights": "c" * 64, **fields})


@pytest.mark.parametrize("side", ["A", "B"])
def test_no_speedup_from_a_side_whose_output_was_wrong(side: str) -> None:
    a, b = [record(), judged()], [record(**H100), judged(**H100)]
    (a if side == "A" else b).append(judged(name="cache", word="fail", **(H100 if side == "B" else {})))
    row = only(compare(a, b))
    assert (row.speedup, row.interval) == (None, None)
    assert row.refused == f"{side}: accuracy failed: cache in declared mode on llama-tiny"
    assert (row.a, row.b) == (0.02, 0.02)


def test_the_fp32_lane_counts_for_every_dtype_but_not_the_other_way_round() -> None:
    wrong = judged(word="fail", dtype="fp32", lane="fp32")
    assert only(compare([record(dtype="bf16"), wrong], [record(**H100)])).speedup is None
    wrong = judged(word="fail", dtype="bf16")
    fp32 = [record(dtype="fp32"), wrong], [record(dtype="fp32", **H100)]
    assert only(compare(*fp32)).speedup == 1.0


@pytest.mark.parametrize(
    "change", [{"engine": "other"}, {"ranks": 2}, {"class_id": "other"}, {"architecture": "bloom"}], ids=str
)
def test_a_failure_elsewhere_refuses_nothing_here(change: dict[str, Any]) -> None:
    assert only(compare([record(), judged(), judged(word="fail", **change)], [record(**H100)])).speedup == 1.0


def test_a_failure_that_a_later_run_mended_refuses_nothing() -> None:
    old = judged(word="fail", run="old", created="2026-01-01T00:00:00.000000Z")
    assert only(compare([record(), old, judged()], [record(**H100)])).speedup == 1.0
    assert only(compare([record(), judged(run="x"), old], [record(**H100)])).speedup == 1.0


def test_no_speedup_from_a_measurement_whose_own_text_was_wrong() -> None:
    wrong = record(outcome=Outcome(status="accuracy_fail", message="step 3 chose 7"), metrics=(timing(),))
    assert only(compare([wrong], [record(**H100)])).refused == "A: accuracy failed: step 3 chose 7"


def test_one_wrong_attempt_among_right_ones_refuses_all() -> None:
    wrong = record(attempt=2, outcome=Outcome(status="accuracy_fail", message="step 3"), metrics=(timing(),))
    row = only(compare([record(), wrong, record(attempt=3)], [record(**H100)]))
    assert (row.statuses, row.speedup) == (("accuracy_fail", "ok"), None)
    assert row.refused == "A: accuracy failed: step 3"


def test_no_speedup_from_a_simulation() -> None:
    row = only(compare([record()], [record(provenance="simulated", **H100)]))
    assert (row.speedup, row.refused) == (None, "B is simulated")


def test_a_cited_number_is_compared_and_says_where_it_stands() -> None:
    row = only(compare([record(), judged()], [record(provenance="cited", source="a post of 2023", **H100)]))
    assert row.speedup == 1.0
    assert row.notes == ("B is cited: a post of 2023",)


@pytest.mark.parametrize(("a", "b"), list(itertools.product([True, False], repeat=2)))
def test_a_side_that_nobody_judged_is_said(a: bool, b: bool) -> None:
    found = compare([record(), *[judged()] * a], [record(**H100), *[judged(**H100)] * b])
    unjudged = " and ".join(name for name, known in (("A", a), ("B", b)) if not known)
    assert only(found).notes == ((f"accuracy was not judged among the records of {unjudged}",) if unjudged else ())


def test_out_of_memory_is_a_row_with_its_reason() -> None:
    row = only(compare([record(status="oom")], [record(**H100)]))
    assert (row.a, row.b, row.speedup) == (None, 0.02, None)
    assert row.statuses == ("oom", "ok")
    assert row.refused == "A: oom: why"


def test_out_of_memory_on_both_sides_is_a_row_too() -> None:
    (row,) = compare([record(status="oom")], [record(status="timeout", **H100)]).rows
    assert row.statuses == ("oom", "timeout")


def test_one_attempt_that_worked_gives_the_number() -> None:
    row = only(compare([record(status="timeout"), record(attempt=2)], [record(**H100)]))
    assert (row.a, row.speedup) == (0.02, 1.0)


def test_a_zero_gives_no_ratio() -> None:
    row = only(compare([record(metrics=(timing(samples=(0.0,)),))], [record(**H100)]))
    assert (row.speedup, row.refused) == (None, "tpot is not positive on both sides")


def test_the_published_example_comes_out() -> None:
    """BLOOMZ-7B on eight Gaudi2 against one A100: the posts' 2.89x, which the row must call unlike."""
    total = {"unit": "s", "definition": "total latency of 100 tokens"}
    gaudi = record(device="hpu", class_id="gaudi2", engine="ds", ranks=8, metrics=(timing("e2e", (0.734,), **total),))
    a100 = record(device="cuda", class_id="a100", engine="ds", ranks=1, metrics=(timing("e2e", (2.119,), **total),))
    row = only(compare([a100], [gaudi]), "e2e")
    assert row.speedup == pytest.approx(2.887, abs=5e-4)
    assert "unlike: 1 ranks against 8" in row.notes


def test_rows_stand_in_an_order_that_does_not_depend_on_the_records_order() -> None:
    made = [record(batch=b, input_length=i) for b in (1, 16, 4) for i in (32, 128)]
    others = [one.model_copy(update={"run": "run-2"}) for one in made]
    first, second = compare(made, others), compare(made[::-1], others[::-1])
    assert first.rows == second.rows
    assert [row.workload for row in first.rows] == [f"b{b}-i{i}-n16" for b in (1, 4, 16) for i in (32, 128)]
