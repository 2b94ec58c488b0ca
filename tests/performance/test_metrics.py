"""Metrics against numbers worked by hand, published numbers, and properties that any clock must have."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genqual.cases import Workload
from genqual.engines.base import Generated
from genqual.metrics.compute import BadClock, Measured, compute
from genqual.metrics.definitions import DEFINITIONS, table
from genqual.metrics.energy import Used
from tests.performance.runs import rank, roofline, run, value

USED = Used(1.0, "one source")
THREE = Workload(batch=1, input_length=8, new_tokens=3)

gaps = st.floats(1e-6, 10.0, allow_nan=False)


@st.composite
def repetitions(draw: st.DrawFn) -> list[list[float]]:
    """Gaps of (repetitions, tokens) runs, seconds."""
    tokens = draw(st.integers(2, 12))
    return draw(st.lists(st.lists(gaps, min_size=tokens, max_size=tokens), min_size=1, max_size=5))


def of(runs_gaps: list[list[float]], *, batch: int = 1, scale: float = 1.0) -> dict[str, Measured]:
    steps = [np.cumsum(np.array(one) * scale).tolist() for one in runs_gaps]
    workload = Workload(batch=batch, input_length=8, new_tokens=len(runs_gaps[0]))
    return compute([run(one, batch=batch) for one in steps], workload, [rank()], rooflines=[roofline()], peak_memory=7)


def test_every_metric_by_hand() -> None:
    found = compute(
        [run([1.0, 1.25, 2.0], wall_s=2.25), run([2.0, 2.5, 3.0], wall_s=4.0), run([1.5, 1.75, 2.5], wall_s=2.75)],
        THREE,
        [rank(load_s=3.0), rank(load_s=5.0)],
        peak_memory=123,
    )
    assert list(found) == list(DEFINITIONS)
    values = {name: metric.value for name, metric in found.items()}
    assert values["ttft"] == 1.5
    assert values["tpot"] == 0.5
    assert found["tpot"].samples == (0.5, 0.5, 0.5)
    assert values["itl_p50"] == 0.5  # of .25 .25 .5 .5 .75 .75
    assert values["itl_p90"] == 0.75
    assert values["e2e"] == 2.5
    assert values["tokens_per_s"] == 3 / 2.5
    assert values["msec_per_token"] == pytest.approx(1000 * 2.75 / 3)
    assert values["load_s"] == 5.0
    assert values["peak_memory"] == 123


def test_msec_per_token_is_the_one_of_the_bloom_posts() -> None:
    # BLOOM-176B, ds-inference fp16 on 8x A100, batch 128, 100 new tokens: 8832 ms, published as 0.69.
    steps = np.linspace(0.1, 8.8, 100).tolist()
    workload = Workload(batch=128, input_length=16, new_tokens=100)
    found = compute([run(steps, batch=128, wall_s=8.832)], workload, [rank()])
    assert round(value(found["msec_per_token"]), 2) == 0.69
    assert found["msec_per_token"].unit == "ms"


@given(repetitions())
def test_the_parts_add_up(runs_gaps: list[list[float]]) -> None:
    found = of(runs_gaps)
    for ttft, tpot, e2e in zip(*(found[name].samples for name in ("ttft", "tpot", "e2e")), strict=True):
        assert e2e == pytest.approx(ttft + (len(runs_gaps[0]) - 1) * tpot)


@given(repetitions())
def test_values_are_those_of_the_standard_library(runs_gaps: list[list[float]]) -> None:
    found = of(runs_gaps, batch=3)
    later = [gap for one in runs_gaps for gap in one[1:]]
    assert found["ttft"].value == pytest.approx(statistics.median(one[0] for one in runs_gaps))
    assert found["tpot"].value == pytest.approx(statistics.median(statistics.fmean(one[1:]) for one in runs_gaps))
    assert found["tokens_per_s"].value == pytest.approx(
        statistics.median(3 * len(one) / math.fsum(one) for one in runs_gaps)
    )
    if len(later) > 1:
        cuts = statistics.quantiles(later, n=100, method="inclusive")
        for name, cut in (("itl_p50", 49), ("itl_p90", 89), ("itl_p99", 98)):
            assert found[name].value == pytest.approx(cuts[cut])


@given(repetitions(), st.sampled_from([1e-3, 0.5, 60.0]))
def test_times_scale_with_the_unit_of_time_and_rates_against_it(runs_gaps: list[list[float]], scale: float) -> None:
    one, other = of(runs_gaps), of(runs_gaps, scale=scale)
    for name in ("ttft", "tpot", "itl_p50", "itl_p99", "e2e", "msec_per_token"):
        assert other[name].value == pytest.approx(value(one[name]) * scale)
    for name in ("tokens_per_s", "mbu", "mfu"):
        assert other[name].value == pytest.approx(value(one[name]) / scale)


@given(repetitions(), st.randoms(use_true_random=False))
def test_the_order_of_repetitions_does_not_matter(runs_gaps: list[list[float]], random: Random) -> None:
    shuffled = random.sample(runs_gaps, len(runs_gaps))
    for name, metric in of(runs_gaps).items():
        assert of(shuffled)[name].value == pytest.approx(metric.value)


def in_pieces(sizes: list[int], gap_s: float = 0.01, **more: Any) -> Generated:
    """A run whose tokens arrive in pieces of `sizes`, `gap_s` apart, the first after 0.5 s; in a piece 1 ns apart."""
    pieces = np.repeat(np.arange(len(sizes)), sizes)
    steps = 0.5 + gap_s * pieces + 1e-9 * np.arange(len(pieces))
    return replace(run(steps.tolist()), pieces=pieces, **more)


def test_tokens_that_arrive_together_have_no_gap_between_them() -> None:
    """32 tokens in pieces of 16, 8, 4 and 4: 30 ms for the sixteen after the first piece, and not 30 ms for 31."""
    found = compute([in_pieces([16, 8, 4, 4])], Workload(1, 8, 32), [rank()], rooflines=[roofline()])
    assert value(found["ttft"]) == 0.5
    assert value(found["tpot"]) == pytest.approx(1.875e-3, rel=1e-5)
    gaps = [0.01 / 8] * 8 + [0.01 / 4] * 8
    for name, level in (("itl_p50", 0.5), ("itl_p90", 0.9), ("itl_p99", 0.99)):
        assert value(found[name]) == pytest.approx(float(np.quantile(gaps, level)), rel=1e-4)
        assert "pieces of up to 16" in found[name].note
    assert value(found["mbu"]) > 0


@pytest.mark.parametrize(
    ("one", "missing", "words"),
    [
        (
            in_pieces([32]),
            {"tpot", "itl_p50", "itl_p90", "itl_p99", "mbu"},
            "all 32 tokens of repetition 1 arrived in one",
        ),
        (in_pieces([1, 31], untold="nobody says"), {"itl_p50", "itl_p90", "itl_p99"}, "nobody says"),
        (
            replace(in_pieces([16, 16]), pieces=None, untold="nobody says"),
            {"tpot", "itl_p50", "itl_p90", "itl_p99", "mbu"},
            "nobody says",
        ),
    ],
    ids=["one piece", "only the first piece is told", "nothing is told"],
)
def test_what_pieces_do_not_tell_is_withheld_with_the_reason(one: Generated, missing: set[str], words: str) -> None:
    found = compute(
        [in_pieces([16, 8, 8]), one], Workload(1, 8, 32), [rank()], rooflines=[roofline()], peak_memory=1, energy=USED
    )
    assert {name for name, metric in found.items() if metric.value is None} == missing
    assert all(words in found[name].note for name in missing)


@pytest.mark.parametrize(("cached", "hit"), [([0, 0], False), ([1, -1], False), ([0, 16], True)])
def test_a_prompt_that_a_cache_answered_has_no_ttft_but_where_hits_are_asked_for(cached: list[int], hit: bool) -> None:
    one = replace(run([1.0, 2.0, 3.0], batch=2), cached_tokens=np.array(cached))
    workload = Workload(2, 8, 3)
    found = compute([one], workload, [rank()])
    assert (found["ttft"].value is None) == hit
    assert ("row 1" in found["ttft"].note) == hit
    assert value(found["tpot"]) == 1.0
    assert compute([one], workload, [rank()], hits=True)["ttft"].value is None, "no row or only one was answered"
    both = replace(one, cached_tokens=np.array([7, 7]))
    assert value(compute([both], workload, [rank()], hits=True)["ttft"]) == 1.0


def test_one_token_has_no_tpot_and_says_why() -> None:
    found = compute([run([0.5])], Workload(1, 8, 1), [rank()], rooflines=[roofline()], energy=USED)
    assert {name for name, metric in found.items() if metric.value is None} == {
        "tpot",
        "itl_p50",
        "itl_p90",
        "itl_p99",
        "mbu",
        "peak_memory",
    }
    assert "TTFT" in found["tpot"].note
    assert found["ttft"].value == found["e2e"].value == 0.5
    assert found["mfu"].value is not None


def test_a_quantile_of_few_gaps_says_so() -> None:
    found = of([[1.0] * 60])
    assert "59 gaps" in found["itl_p99"].note
    assert found["itl_p90"].note == found["itl_p50"].note == ""


@pytest.mark.parametrize(
    ("step_s", "wall_s", "complaint"),
    [
        ([1.0, math.nan, 3.0], 3.0, "step 1 is nan"),
        ([1.0, 2.0, math.inf], 3.0, "step 2 is inf"),
        ([1.0, 2.0, 3.0], math.nan, "the wall time is nan"),
        ([0.0, 2.0, 3.0], 3.0, "step 0 is 0 s"),
        ([-1.0, 2.0, 3.0], 3.0, "step 0 is -1 s"),
        ([1.0, 1.0, 3.0], 3.0, "step 1 is 1 s"),
        ([1.0, 3.0, 2.0], 3.0, "step 2 is 2 s"),
        ([1.0, 2.0, 3.0], 2.5, "the wall time is 2.5 s"),
        ([0.0, 0.0, 0.0], 0.0, "step 0 is 0 s"),
    ],
)
def test_a_clock_that_cannot_be_is_refused_by_name_and_step(step_s: list[float], wall_s: float, complaint: str) -> None:
    with pytest.raises(BadClock, match=f"repetition 1: {complaint}"):
        compute([run([1.0, 2.0, 3.0]), run(step_s, wall_s=wall_s)], THREE, [rank()])


def test_a_lost_step_is_a_bad_clock() -> None:
    lost = run([1.0, 2.0, 3.0])
    lost = type(lost)(lost.tokens, lost.step_s[:2], lost.wall_s, lost.cpu_s)
    with pytest.raises(BadClock, match="time stamps for 3 tokens"):
        compute([lost], THREE, [rank()])


def test_tokens_of_another_workload_are_refused() -> None:
    with pytest.raises(ValueError, match="asked for"):
        compute([run([1.0, 2.0])], THREE, [rank()])


@pytest.mark.parametrize(("runs", "ranks", "rooflines"), [(0, 1, 0), (1, 0, 0), (1, 2, 1)])
def test_nothing_to_compute_from_is_refused(runs: int, ranks: int, rooflines: int) -> None:
    with pytest.raises(ValueError, match=r"repetition|rank"):
        compute([run([1.0, 2.0, 3.0])] * runs, THREE, [rank()] * ranks, rooflines=[roofline()] * rooflines)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_metric_is_finite_or_absent_with_a_reason(bad: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        Measured("ttft", "s", bad, (), "median", "lower")
    with pytest.raises(ValueError, match="finite"):
        Measured("ttft", "s", 1.0, (bad,), "median", "lower")
    with pytest.raises(ValueError, match="why"):
        Measured("ttft", "s", None, (), "median", "lower")


def test_only_durations_in_seconds_can_be_replayed() -> None:
    found = of([[1.0, 0.5, 0.5]])
    assert {name for name, metric in found.items() if metric.is_time} == {
        "ttft",
        "tpot",
        "itl_p50",
        "itl_p90",
        "itl_p99",
        "e2e",
        "load_s",
    }


def test_the_table_for_help_names_every_metric() -> None:
    lines = table().splitlines()
    assert [line.split()[0] for line in lines] == list(DEFINITIONS)
    assert max(map(len, lines)) <= 130


def test_the_docs_define_every_metric_as_the_code_does() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "performance.md").read_text(encoding="utf-8")
    for d in DEFINITIONS.values():
        assert f"| `{d.name}` | {d.title} | {d.unit} | {d.statistic} | {d.formula} |" in page
