"""What is shown: exact cells, worked out here from the numbers, at the widths of real terminals and without colour."""

from __future__ import annotations

import io
import re
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from rich.console import Console, RenderableType

from genqual.analysis.compare import compare
from genqual.analysis.compare_view import as_markdown, as_table
from genqual.analysis.report.rows import rows as page_rows
from genqual.analysis.terminal.display import number
from genqual.analysis.terminal.summary import conformance_table, performance_table, summary
from genqual.analysis.terminal.text import clean, markdown, spread
from genqual.records.fields import Outcome, Workload
from genqual.records.metric import Gate, Metric
from genqual.records.record import Record
from tests.results.make import record, timing, verdict

WIDTHS = [80, 100, 120]
NO_BASELINE = Gate(verdict="no_baseline", reason="none")


def drawn(shown: RenderableType | None, width: int = 100) -> list[str]:
    """The lines of a terminal of this width that knows no colour."""
    assert shown is not None
    page = io.StringIO()
    Console(width=width, color_system=None, file=page).print(shown)
    return [line.rstrip() for line in page.getvalue().splitlines()]


def cells(lines: Sequence[str]) -> list[list[str]]:
    """The cells of each line: what stands between two or more spaces."""
    return [re.split(r"\s{2,}", line.strip()) for line in lines if line.strip()]


def measured(seed: float, gate: Gate | None = NO_BASELINE, **fields: Any) -> Record:
    """All metrics of a table, all from one number, so that a test can work each cell out."""
    values = {
        "ttft": ("s", seed * 10, "lower"),
        "tpot": ("s", seed, "lower"),
        "tokens_per_s": ("tokens/s", 1 / seed, "higher"),
        "msec_per_token": ("ms", seed * 1000, "lower"),
        "peak_memory": ("B", seed * 2**35, "lower"),
        "mbu": ("1", seed * 10, "higher"),
        "mfu": ("1", seed * 5, "higher"),
    }
    metrics = tuple(
        Metric.model_validate(
            {"name": name, "unit": unit, "value": value, "samples": [value], "better": better, "gate": gate}
        )
        for name, (unit, value, better) in values.items()
    )
    return record(metrics=metrics, **fields)


def expected(seed: float) -> list[str]:
    """TTFT ms, TPOT ms, tokens/s, msec/token, memory MiB, MBU %, MFU %: three digits, by hand for these seeds."""
    return {
        0.0125: ["125", "12.5", "80.0", "12.5", "410", "12.5", "6.25"],
        0.025: ["250", "25.0", "40.0", "25.0", "819", "25.0", "12.5"],
        0.05: ["500", "50.0", "20.0", "50.0", "1638", "50.0", "25.0"],
    }[seed]


TITLES = ["TTFT ms", "TPOT ms", "tokens/s", "msec/token", "memory MiB", "MBU %", "MFU %"]


@pytest.mark.parametrize("width", WIDTHS)
def test_the_performance_table(width: int) -> None:
    records = [
        measured(0.0125, input_length=32),
        measured(0.025, input_length=128),
        record(batch=8, input_length=128, status="oom"),
    ]
    lines = drawn(performance_table(records, width), width)
    assert lines[0] == "Is it fast enough?  xeon-6-2c, 16 new tokens"
    head, rule, *rows = cells(lines[1:])
    assert head == ["case", "metric", "b1 i32", "b1 i128", "b8 i128", "verdict"]
    assert set(rule[0]) == {"─"}
    for at, (title, one, two) in enumerate(zip(TITLES, expected(0.0125), expected(0.025), strict=True)):
        case = [["llama-30m bf16"], ["transformers"]][at] if at < 2 else []
        assert rows[at] == [*case, title, one, two, "OOM", "NO BASELINE"]
    assert len(rows) == 7
    assert max(map(len, lines)) <= width


def test_attempts_are_shown_by_their_median_and_only_of_the_newest_run() -> None:
    values = (0.010, 0.030, 0.011)
    attempts = [record(attempt=n, metrics=(timing(samples=(value,)),)) for n, value in enumerate(values, start=1)]
    old = record(run="old", created="2026-01-01T00:00:00.000000Z", metrics=(timing(samples=(9.0,)),))
    rows = cells(drawn(performance_table([old, *attempts])))
    assert rows[-2][-2:] == ["TPOT ms", f"{statistics.median(values) * 1000:.1f}"]


@pytest.mark.parametrize(
    ("status", "word"),
    [
        ("oom", "OOM"),
        ("timeout", "TIMEOUT"),
        ("unsupported", "UNSUPP"),
        ("error", "ERROR"),
        ("skipped", "SKIPPED"),
        ("accuracy_fail", "WRONG"),
    ],
)
def test_a_cell_without_a_number_says_how_it_ended(status: str, word: str) -> None:
    rows = cells(drawn(performance_table([record(status=status)])))  # type: ignore[arg-type]
    assert ["llama-30m bf16", "outcome", word] in rows


def nowhere(**fields: Any) -> Record:
    """A case that ended before any workload was asked of it."""
    return record(status="unsupported", **fields).model_copy(update={"workload": Workload()})


def test_a_case_that_cannot_run_at_all_says_so_once() -> None:
    table = drawn(performance_table([measured(0.0125), nowhere(model="bloom-30m")]))
    rows = cells(table)
    assert rows[1] == ["case", "metric", "b1 i32", "verdict"]
    assert ["bloom-30m bf16", "outcome", "-", "UNSUPPORTED"] in rows
    assert sum("UNSUPPORTED" in line for line in table) == 1


def test_a_run_that_measured_nothing_has_no_performance_table() -> None:
    assert performance_table([nowhere()]) is None


def test_a_number_that_came_with_wrong_text_is_not_shown() -> None:
    wrong = record(outcome=Outcome(status="accuracy_fail", message="x"), metrics=(timing(),))
    text = "\n".join(drawn(performance_table([wrong])))
    assert "WRONG" in text
    assert "20.0" not in text


def test_a_metric_that_could_not_be_had_is_a_dash() -> None:
    rows = cells(drawn(performance_table([record(metrics=(timing(), timing("ttft", value=None))), record(batch=2)])))
    assert ["llama-30m bf16", "TPOT ms", "20.0", "20.0"] in rows
    assert not any("TTFT ms" in row for row in rows)
    some = record(batch=2, metrics=(timing(), timing("ttft", (0.5,))))
    rows = cells(drawn(performance_table([record(), some])))
    assert ["llama-30m bf16", "TTFT ms", "-", "500"] in rows


def test_verdicts_that_differ_are_counted_worst_first() -> None:
    words = ["pass", "no_baseline", "pass", "regressed"]
    records = [measured(0.0125, gate=Gate(verdict=word), batch=batch) for batch, word in enumerate(words, start=1)]
    lines = drawn(performance_table(records, 140), 140)
    (ttft,) = [line for line in lines if "TTFT" in line]
    assert "1 REGRESSED" in ttft
    text = " ".join(" ".join(lines).split())
    assert text.index("REGRESSED") < text.index("BASELINE") < text.index("PASS")


def test_a_metric_whose_failure_is_waived_says_so_in_the_table_and_on_the_page() -> None:
    gate = Gate(verdict="regressed", reason="6 % slower")
    one = measured(0.0125, gate=gate, labels={"waived tpot": "tracker 12, until 2999-01-01"})
    lines = cells(drawn(performance_table([one])))
    assert [row[-1] for row in lines if "TPOT ms" in row] == ["WAIVED"]
    assert [row[-1] for row in lines if "TTFT ms" in row] == ["REGRESSED"]
    (row,) = page_rows([one], [])
    assert row.gate == "regressed", "another metric's failure is not waived"
    both = {f"waived {metric.name}": "tracker 12" for metric in one.metrics}
    assert page_rows([measured(0.0125, gate=gate, labels=both)], [])[0].gate == "waived"


def test_more_workloads_than_fit_go_below() -> None:
    records = [measured(0.0125, input_length=2**power) for power in range(4, 12)]
    lines = drawn(performance_table(records, 80), 80)
    heads = [row for row in cells(lines) if row[:1] == ["case"]]
    assert [word for row in heads for word in row[2:-1]] == [f"b1 i{2**power}" for power in range(4, 12)]
    assert [len(row) - 3 for row in heads] == [4, 4]
    assert max(map(len, lines)) <= 80


def test_new_tokens_stand_in_the_head_when_they_differ() -> None:
    lines = drawn(performance_table([record(new_tokens=16), record(new_tokens=64)]))
    assert lines[0] == "Is it fast enough?  xeon-6-2c"
    assert ["n16", "n64", "verdict"] in [row[-3:] for row in cells(lines)]


def test_two_classes_of_hardware_are_told_apart() -> None:
    text = drawn(performance_table([measured(0.0125), measured(0.025, class_id="h100", device="cuda")]))
    assert text[0] == "Is it fast enough?  16 new tokens"
    assert sum("h100" in line for line in text) == sum("xeon-6-2c" in line for line in text) == 1


CONFORMANCE = [
    verdict(name="greedy", nrms=0.015),
    verdict(name="left_padding", nrms=0.004),
    verdict(name="finite", nrms=None),
    verdict(name="cache", nrms=None, word="no_reference"),
    verdict(name="batching", nrms=0.05, word="fail"),
    verdict(name="free_run", nrms=None, word="fail"),
    verdict(name="greedy", dtype="fp32", lane="fp32", nrms=0.0004),
    verdict(name="greedy", nrms=None, engine="deepspeed-inference", ranks=2),
    verdict(name="cache", nrms=None, engine="deepspeed-inference", ranks=2),
    verdict(name="a", nrms=None, word="no_reference", engine="deepspeed-inference", ranks=2),
    verdict(name="b", nrms=None, word="no_reference", engine="deepspeed-inference", ranks=2),
]


@pytest.mark.parametrize("width", WIDTHS)
def test_the_conformance_table(width: int) -> None:
    """Limits are 0.02, so 0.015 is 0.75 of it. Failures stand one by one, first; what passed is one row."""
    lines = drawn(conformance_table(CONFORMANCE), width)
    assert lines[0] == "Is it right?  xeon-6-2c"
    head, _, *rows = cells(lines[1:])
    assert head == ["case", "property", "nrms", "of limit", "verdict"]
    assert rows == [
        ["llama-30m bf16", "a and 1 more", "-", "-", "NO REFERENCE"],
        ["deepspeed-inference x2", "2 properties", "-", "-", "PASS"],
        ["llama-30m bf16", "batching", "5.0e-02", "2.50", "FAIL"],
        ["transformers", "free run", "-", "-", "FAIL"],
        ["cache", "-", "-", "NO REFERENCE"],
        ["3 properties; closest:" if width == 80 else "3 properties; closest: greedy", "1.5e-02", "0.75", "PASS"],
        *([["greedy"]] if width == 80 else []),
        ["llama-30m fp32", "greedy", "4.0e-04", "0.02", "PASS"],
        ["transformers"],
    ]
    assert max(map(len, lines)) <= width


def test_a_pass_by_an_oracle_that_is_not_independent_says_so() -> None:
    """Who buys reads the passes alone."""
    theirs = [verdict(name="greedy", independent=False), verdict(name="cache", nrms=None)]
    assert "2 properties; closest: greedy; not independent" in one_row(*theirs)
    assert "greedy; not independent" in one_row(theirs[0])
    ours = [verdict(name="greedy", independent=True), verdict(name="cache", nrms=None)]
    assert "2 properties; closest: greedy" in one_row(*ours)


def one_row(*records: Record) -> list[str]:
    """The first row of a conformance table."""
    return cells(drawn(conformance_table(records)))[3]


def test_of_several_verdicts_on_a_property_the_worst_is_shown_with_their_count() -> None:
    batches = [verdict(batch=n, nrms=nrms) for n, nrms in enumerate((0.001, 0.018, 0.002), start=1)]
    assert one_row(*batches) == ["llama-30m bf16", "greedy x3", "1.8e-02", "0.90", "PASS"]
    worse = [*batches, verdict(batch=9, nrms=0.0001, word="no_reference")]
    assert one_row(*worse) == ["llama-30m bf16", "greedy x4", "1.0e-04", "0.01", "NO REFERENCE"]
    assert one_row(*worse, verdict(batch=10, nrms=0.00002, word="fail"))[-1] == "FAIL"


def test_a_known_failure_is_waived_and_stands_behind_an_unknown_one() -> None:
    why = {"waived": "tracker 12, until 2999-01-01"}
    rows = cells(
        drawn(
            conformance_table(
                [
                    verdict(name="batching", word="fail", nrms=0.03, labels=why),
                    verdict(name="cache", word="fail", nrms=0.06),
                    verdict(name="greedy", word="fail", nrms=0.05, labels=why, protocol={"edge": 1}),
                    verdict(name="greedy", nrms=0.01, protocol={"edge": 2}),
                ]
            )
        )
    )
    assert [row[-1] for row in rows[3:]] == ["FAIL", "WAIVED", "WAIVED"]
    assert [row[-4] for row in rows[3:]] == ["cache", "batching", "greedy x2"]


def test_a_judgement_that_could_not_be_made_says_why() -> None:
    oom = verdict(word="no_reference").model_copy(update={"outcome": Outcome(status="oom", message="x")})
    assert one_row(oom)[-1] == "OOM"


def test_a_verdict_that_needs_a_reference_says_so_though_its_outcome_is_skipped() -> None:
    skipped = verdict(word="no_reference").model_copy(update={"outcome": Outcome(status="skipped", message="x")})
    assert one_row(skipped)[-1] == "NO REFERENCE"


def test_a_foreign_lane_is_named() -> None:
    assert "greedy (fp32 slice)" in "\n".join(drawn(conformance_table([verdict(lane="fp32 slice")])))


def test_the_summary_is_both_tables_or_what_there_is() -> None:
    text = "\n".join(drawn(summary([*CONFORMANCE, measured(0.0125)])))
    assert text.index("Is it right?") < text.index("\n\nIs it fast enough?")
    assert "right" not in "\n".join(drawn(summary([measured(0.0125)])))
    assert drawn(summary([])) == []


H100: dict[str, Any] = {"class_id": "h100", "device": "cuda", "run": "run-2"}


@pytest.mark.parametrize("width", WIDTHS)
def test_the_comparison_table(width: int) -> None:
    found = compare([measured(0.05)], [measured(0.0125, **H100)], ("a.db", "b.db"))
    lines = drawn(as_table(found), width)
    assert lines[:2] == ["A: a.db: xeon-6-2c; run-1", "B: b.db: h100; run-2"]
    head, _, *rows = cells(lines[2:])
    assert head == ["workload", "metric", "A", "B", "B vs A", "95 %", "see"]
    ratios = ["4.00x", "4.00x", "4.00x", "4.00x", "4.00x", "0.25x", "0.25x"]
    for at, (title, one, two, ratio) in enumerate(zip(TITLES, expected(0.05), expected(0.0125), ratios, strict=True)):
        case = [["llama-30m bf16"], ["transformers"], ["b1-i32-n16"]][at] if at < 3 else []
        assert rows[at] == [*case, title, one, two, ratio, "n/a", "1"]
    assert "[1] accuracy was not judged among the records of A and B" in lines
    assert max(map(len, lines)) <= width


def test_the_comparison_in_markdown() -> None:
    both = [record(**fields, metrics=(timing(samples=(0.02,) * 5),)) for fields in ({}, H100)]
    text = as_markdown(compare([both[0], record(batch=2)], [both[1]], ("a.db", "b.db")))
    lines = text.splitlines()
    assert lines[:2] == ["- A: a.db: xeon-6-2c; run-1", "- B: b.db: h100; run-2"]
    assert lines[3] == "| model | engine | workload | metric | A | B | B vs A | 95 % | see |"
    assert lines[4].count("|") == lines[3].count("|")
    assert lines[5] == (
        "| llama-30m bf16 | transformers | b1-i32-n16 | TPOT ms | 20.0 | 20.0 | 1.00x | 1.00-1.00 | 1 |"
    )
    assert "1. accuracy was not judged among the records of A and B" in lines
    assert "Only in A:" in lines


@pytest.mark.parametrize("render", [lambda found: "\n".join(drawn(as_table(found))), as_markdown])
def test_what_is_refused_shows_both_numbers_and_no_ratio(render: Callable[[Any], str]) -> None:
    text = render(compare([record()], [record(provenance="simulated", **H100)]))
    (row,) = [line for line in text.splitlines() if "TPOT" in line]
    assert row.count("20.0") == 2
    assert "refused" in row
    assert "B is simulated" in text


@pytest.mark.parametrize("render", [lambda found: "\n".join(drawn(as_table(found))), as_markdown])
def test_out_of_memory_stands_in_the_comparison(render: Callable[[Any], str]) -> None:
    text = render(compare([record(status="oom")], [record(**H100)]))
    (row,) = [line for line in text.splitlines() if "TPOT" in line]
    assert re.split(r"[ |]+", row.strip("| "))[-6:-1][1:] == ["OOM", "20.0", "-", "-"]


def test_nothing_in_common_says_so() -> None:
    text = "\n".join(drawn(as_table(compare([record()], [record(dtype="fp32")]))))
    assert "No row stands on both sides." in text
    assert "Only in A:" in text


NASTY = "[red]x[/red] | <script>alert(1)</script> `rm` *b* [a](http://e)"


def test_markup_in_a_name_is_shown_and_not_obeyed() -> None:
    pair = compare([record(model=NASTY)], [record(model=NASTY, **H100)])
    for shown in (as_table(pair), performance_table([record(model=NASTY)]), conformance_table([verdict(model=NASTY)])):
        text = "".join("".join(drawn(shown, 200)).split())
        assert "".join(NASTY.split()) in text


def test_markdown_cannot_be_broken_out_of() -> None:
    text = as_markdown(compare([record(model=NASTY)], [record(model=NASTY, **H100)]))
    (row,) = [line for line in text.splitlines() if "TPOT" in line]
    assert len(re.findall(r"(?<!\\)\|", row)) == 10
    assert "<script>" not in text
    assert not re.search(r"(?<!\\)\]\(", text)
    assert "&lt;script&gt;" in row


@pytest.mark.parametrize(
    ("text", "plain"),
    [("a\x1b[2Jb", "a [2Jb"), ("a\nb\tc", "a b c"), ("a\u202eb", "a b"), ("  a  ", "a"), ("é", "é"), ("a\x9bb", "a b")],
)
def test_no_control_character_is_shown(text: str, plain: str) -> None:
    assert clean(text) == plain
    assert markdown(text) == plain.replace("[", "\\[")


@pytest.mark.parametrize(
    ("lines", "rows", "laid"),
    [
        ("abc", 5, ["a", "b", "c", "", ""]),
        ("abc", 3, ["a", "b", "c"]),
        ("abc", 2, ["a", "b\nc"]),
        ("abc", 1, ["a\nb\nc"]),
        ("", 2, ["", ""]),
        ("a", 0, []),
    ],
)
def test_lines_are_laid_beside_rows(lines: str, rows: int, laid: list[str]) -> None:
    assert spread(list(lines), rows) == laid


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1234.5, "1234"),
        (123.45, "123"),
        (12.345, "12.3"),
        (1.2345, "1.23"),
        (0.12345, "0.123"),
        (0.0, "0"),
        (-5.0, "-5.00"),
    ],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text
