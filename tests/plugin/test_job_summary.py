"""The job summary and the annotations, read back as GitHub does: by a Markdown parser, and by the runner's rule."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from genqual.cases import Case, Workload
from genqual.commands.rebase import rebase
from genqual.session.job_summary import MOST_ROWS, append, markdown, target, workflow_commands
from genqual.session.next_step import for_reader, next_step
from genqual.session.options import Options
from genqual.session.outcome import GateChange, ItemOutcome, VerdictName, attach
from genqual.session.verdict_rows import Row, VerdictRows
from tests.here import CPU
from tests.plugin.suite import numpy_engine, suite
from tests.results.make import record, timing, verdict

CASE = f"{CPU}-transformers-llama-30m-fp32"
TPOT = f"suites/performance/test_latency.py::test_time_per_output_token[{CASE}-b1-i128-n32]"
ALIKE = f"suites/conformance/test_greedy.py::test_every_logit_is_finite[{CASE}]"
READER = MarkdownIt("commonmark").enable("table")


def report(nodeid: str, outcome: str, text: str = "", when: str = "call", **told: Any) -> Any:
    """A report as the plugin makes it; `told` are fields of its test's outcome."""
    made = of_somebody_else(nodeid, outcome, text, when)
    attach(made, ItemOutcome(device=CPU, **told))
    return made


def of_somebody_else(nodeid: str, outcome: str, text: str, when: str = "call") -> Any:
    longrepr = ("suite.py", 3, f"Skipped: {text}") if outcome == "skipped" else text
    return pytest.TestReport(nodeid, ("suite.py", 3, nodeid), {}, outcome, longrepr, when)  # type: ignore[arg-type]


def row(**changes: Any) -> Row:
    fields: dict[str, Any] = {"verdict": "REGRESSED", "nodeid": TPOT, "failed": True, "why": "slower", "metric": "tpot"}
    return Row(**(fields | changes))


def cells(text: str) -> list[list[str]]:
    """The table as a reader sees it: what each cell shows, its code spans and text joined."""
    found: list[list[str]] = []
    for token in READER.parse(text):
        if token.type == "tr_open":
            found.append([])
        if token.type == "inline" and token.level == 4 and found:
            found[-1].append("".join(child.content for child in token.children or []))
    return found


def command_read(line: str) -> tuple[str, str, str]:
    """Kind, title and message as the runner reads a workflow command."""
    match = re.fullmatch(r"::(error|warning) title=([^:,\r\n]*)::([^\r\n]*)", line)
    assert match, line
    kind, title, message = match.groups()

    def plain(text: str, also: dict[str, str]) -> str:
        codes = {"0D": "\r", "0A": "\n", "25": "%"} | also
        return re.sub(r"%([0-9A-F]{2})", lambda found: codes[found[1]], text)

    return kind, plain(title, {"3A": ":", "2C": ","}), plain(message, {})


def test_the_worst_stands_first_with_its_numbers_and_the_next_command(tmp_path: Path) -> None:
    timed = record(metrics=(timing(samples=(0.021, 0.021, 0.021)),))
    judged = verdict(word="fail", nrms=0.05)
    path, other = tmp_path / f"{timed.id}.json", tmp_path / f"{judged.id}.json"
    rows = VerdictRows()
    rows.add(report(TPOT.replace("b1", "b4"), "skipped", "RECORDED: follows", verdict="recorded", metric="tpot"))
    rows.add(report(ALIKE, "passed", verdict="pass", records=(other,)))
    last = ALIKE.replace("fp32", "bf16").replace("conformance", "robustness")  # by its name it would stand last
    rows.add(report(last, "failed", "wrong", verdict="fail", records=(path, other)))
    rows.add(report(TPOT, "failed", "6 % slower", verdict="regressed", records=(path,),
                    change=GateChange(0.05, (0.04, 0.06), 8), metric="tpot",
                    next="pytest -k tpot  # 2 min"))  # fmt: skip
    text = markdown(rows.rows, {one.id: one for one in (timed, judged)}, "genqual: run x", ["a note"])
    head, first, second = cells(text)
    assert head == ["verdict", "case", "metric", "baseline", "now", "ratio", "next"]
    assert first[:3] == ["FAIL", CASE.replace("fp32", "bf16"), "every logit is finite"]
    assert first[3:6] == ["error up to 0.02", "0.05", "2.5"]
    assert second == ["REGRESSED", CASE, "tpot b1-i128-n32", "20.0 ms", "21.0 ms", "1.050", "pytest -k tpot  # 2 min"]
    assert "1 FAIL, 1 REGRESSED, 1 PASS, 1 RECORDED" in text
    assert f"Correct: `{CASE}` 1 properties" in text
    assert "6 % slower" in text
    assert text.rstrip().endswith("- a note")


@pytest.mark.parametrize(("independent", "said"), [(True, ""), (None, ""), (False, ", not independent")])
def test_what_is_correct_by_transformers_word_says_so(independent: bool | None, said: str, tmp_path: Path) -> None:
    judged, rows = verdict(independent=independent), VerdictRows()
    rows.add(report(ALIKE, "passed", verdict="pass", records=(tmp_path / f"{judged.id}.json",)))
    text = markdown(rows.rows, {judged.id: judged}, "genqual: run x")
    assert text.rstrip().endswith(f"Correct: `{CASE}` 1 properties{said}")


def test_hardware_that_failed_stands_before_all_that_was_judged_on_it() -> None:
    rows = VerdictRows()
    rows.add(report(TPOT, "failed", "6 % slower", verdict="regressed", metric="tpot"))
    rows.add(report(ALIKE, "failed", "HARDWARE: mce of cpu0", verdict="hardware"))
    assert [one.verdict for one in rows.rows] == ["HARDWARE", "REGRESSED"]
    assert cells(markdown(rows.rows, {}, "genqual: run x"))[1][0] == "HARDWARE"


SIGNS = (*"ab |`*_<>&[]()\\\n\r%:,~!-#", "%0A", "%25", "<b>", "<!--", "**a**", "[a](b)")
ODD = st.lists(st.sampled_from(SIGNS), max_size=20).map("".join)
MARKUP = {"html_inline", "link_open", "image", "em_open", "s_open"}


@given(why=ODD, next_command=ODD, title=ODD)
@example(why="<!-- a comment", next_command="", title="")
def test_no_text_breaks_the_table_or_adds_markup(why: str, next_command: str, title: str) -> None:
    text = markdown([row(why=why, next=next_command)], {}, title, [why])
    head, only = cells(text)
    assert len(head) == len(only) == 7
    assert only[0] == "REGRESSED"
    if "\\" not in next_command:  # a backslash before a bar is the one thing that a cell cannot show
        assert only[6].strip() == next_command.replace("\r", " ").replace("\n", " ").strip()
    tokens = READER.parse(text)
    assert not {token.type for token in tokens} & {"html_block", "fence", "code_block", "blockquote_open"}
    inline = [child for token in tokens for child in token.children or []]
    assert not {child.type for child in inline} & MARKUP
    assert [child.type for child in inline].count("strong_open") == 1, "the failing verdict, and nothing else"


@given(ODD, ODD)
def test_an_annotation_is_read_back_by_the_runner_s_rule(why: str, parameter: str) -> None:
    nodeid = TPOT.replace("b1", parameter)
    (line,) = workflow_commands([row(why=why, nodeid=nodeid, next="again")])
    kind, title, message = command_read(line)
    assert kind == "error"
    assert title.startswith("REGRESSED ")
    assert " ".join(f"{row(nodeid=nodeid).case}: {row(nodeid=nodeid).what}".split()) in title
    assert message == f"{why}\nnext: again"


def test_ten_of_a_kind_are_annotated_and_the_rest_is_counted() -> None:
    rows = [row(nodeid=f"{TPOT}{index}") for index in range(12)]
    rows += [row(verdict="NO BASELINE", failed=False, nodeid=f"{ALIKE}{index}") for index in range(10)]
    rows += [row(verdict="PASS", failed=False), row(verdict="WAIVED", failed=False)]
    read = [command_read(line) for line in workflow_commands(rows)]
    assert [kind for kind, _, _ in read] == ["error"] * 10 + ["warning"] * 10
    assert read[9][1] == "3 more"


def test_a_long_run_has_a_summary_that_github_takes() -> None:
    rows = [row(nodeid=f"{TPOT}{index}", why="x" * 9000 + str(index)) for index in range(3000)]
    text = markdown(rows, {}, "genqual")
    assert len(text.encode()) < 1 << 20
    assert len(cells(text)) == MOST_ROWS + 1
    assert f"{3000 - MOST_ROWS} more rows" in text


def test_the_summary_is_added_to_and_what_cannot_be_written_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "of all steps.md"
    file.write_text("before\n")
    assert append(file, "é after\n") == ""
    assert file.read_text(encoding="utf-8") == "before\né after\n"
    assert "cannot be written (No such file" in append(tmp_path / "none" / "x.md", "")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(file))
    assert target(None) == file
    assert target("mine.md") == Path("mine.md")
    monkeypatch.delenv("GITHUB_STEP_SUMMARY")
    assert target(None) is None


@pytest.mark.parametrize(
    ("outcome", "when", "verdict_said", "text", "wanted"),
    [
        ("failed", "setup", None, "rank 0 died", "ERROR"),
        ("failed", "call", None, "rank 0 died", "FAIL"),
        ("failed", "call", "pass", "unexpected pass", "FAIL"),
        ("failed", "call", "no_baseline", "NO BASELINE: none", "NO BASELINE"),
        ("skipped", "call", "waived", "WAIVED: known", "WAIVED"),
        ("skipped", "setup", None, "unsupported: x", "UNSUPPORTED"),
        ("skipped", "setup", None, "hpu is absent: hl-smi found nothing", "ABSENT"),
        ("skipped", "call", None, "for a reason of its own", "SKIPPED"),
    ],
)
def test_each_report_has_one_verdict(
    outcome: str, when: str, verdict_said: VerdictName | None, text: str, wanted: str
) -> None:
    rows = VerdictRows()
    rows.add(report(ALIKE, outcome, text, when, verdict=verdict_said))
    rows.add(report(ALIKE, "passed", when="teardown"))
    (only,) = rows.rows
    assert (only.verdict, only.why, only.failed) == (wanted, text, outcome == "failed")


def test_a_teardown_that_fails_is_told_and_others_tests_are_not() -> None:
    rows = VerdictRows()
    rows.add(report(ALIKE, "passed", verdict="pass"))
    rows.add(report(ALIKE, "failed", "the ranks did not end", "teardown", verdict="pass"))
    rows.add(of_somebody_else("test_theirs.py::test_x", "failed", "wrong"))
    assert [(one.verdict, one.nodeid) for one in rows.rows] == [("ERROR", ALIKE)]


def config(*pyargs: str) -> Any:
    return SimpleNamespace(option=SimpleNamespace(pyargs=bool(pyargs)), args=list(pyargs))


def test_the_next_command_is_one_that_the_programs_take() -> None:
    case, workload = Case("cpu", "transformers", "a model/of mine", "bf16", 2), Workload(1, 16, 4)
    options = Options(batch_sizes=(1, 4), baselines="my baselines", benchmark=True)
    said = next_step(options, config(), case, "no_baseline", "test_x", (workload, "tpot"))
    words = shlex.split(said, comments=True)
    assert words[:2] == ["genqual", "rebase"]
    parsed = rebase.make_context("rebase", words[2:])
    assert parsed.params["models"] == ("a model/of mine",)
    assert (parsed.params["dtypes"], parsed.params["ranks"], parsed.params["device"]) == (("bf16",), (2,), "cpu")
    assert parsed.params["out"] == Path("my baselines")
    assert re.search(r"# \d+ to \d+ min$", said)
    again = next_step(options, config("genqual.suites"), case, "inconclusive", "test_x", (workload, "tpot"), 754.0)
    assert again.startswith("pytest --pyargs genqual.suites -m cpu --benchmark")
    assert again.endswith("# at most 13 min")
    help_of = subprocess.run([sys.executable, "-m", "pytest", "--help"], capture_output=True, text=True, check=True)
    for word in shlex.split(again, comments=True):
        if word.startswith("--"):
            assert word.partition("=")[0] in help_of.stdout


def test_a_server_s_next_command_reaches_the_server() -> None:
    case = Case("cpu", "server", "llama-tiny", "bf16")
    options = Options(endpoint="http://127.0.0.1:8000/v1", served_model="my model")
    said = next_step(options, config(), case, "fail", "test_x")
    assert shlex.split(said)[-4:] == ["--endpoint", "http://127.0.0.1:8000/v1", "--served-model", "my model"]
    assert next_step(options, config(), case, "pass", "test_x") == "", "an unexpected pass asks for no command"
    mine = replace(options, prompts="my prompts.jsonl:text", batch_sizes=(2,), input_lengths=(16, 32), new_tokens=4)
    words = shlex.split(next_step(mine, config(), case, "fail", "test_x"))
    given = ["--prompts=my prompts.jsonl:text", "--batch-sizes", "2", "--input-lengths", "16,32", "--new-tokens", "4"]
    assert words[words.index(given[0]) :][: len(given)] == given


def test_the_next_command_of_ranks_on_hosts_starts_them_there() -> None:
    options = Options(launcher="mpirun", hosts=("a", "b"), launcher_arguments=("--mca", "x", "y z"))
    said = next_step(options, config(), Case("cpu", "transformers-tp", "llama-tiny", "fp32", 2), "fail", "test_x")
    words = shlex.split(said)
    assert words[-5:-1] == ["--launcher", "mpirun", "--hosts", "a,b"]
    assert shlex.split(words[-1].partition("=")[2]) == ["--mca", "x", "y z"]


def of_reader(told: ItemOutcome, *, failed: bool, marks: tuple[pytest.Mark, ...] = ()) -> ItemOutcome:
    """`for_reader` of a test of CASE at b1-i16-n4, in a run whose gate makes at most 300 s of launches."""
    item: Any = SimpleNamespace(
        callspec=SimpleNamespace(params={"workload": Workload(1, 16, 4)}),
        iter_markers=lambda: iter(marks),
        name="test_x[parameters]",
        originalname="test_x",
        config=config(),
    )
    run: Any = SimpleNamespace(options=Options(), gate_at_most_s=lambda case, metric: 300.0)
    return for_reader(told, item, Case("cpu", "transformers", "llama-tiny", "fp32"), run, failed=failed)


def test_an_outcome_gets_its_metric_and_one_next_command() -> None:
    timed = pytest.mark.performance("latency", metric="tpot").mark
    passed = of_reader(ItemOutcome("cpu", "pass"), failed=False, marks=(timed,))
    assert passed == ItemOutcome("cpu", "pass", metric="tpot"), "nothing is to be done about a pass"
    waived = of_reader(ItemOutcome("cpu", "waived"), failed=False, marks=(timed,))
    assert waived.next == ""
    unjudged = of_reader(ItemOutcome("cpu", "inconclusive", "noisy"), failed=False, marks=(timed,))
    assert (unjudged.reason, unjudged.metric) == ("noisy", "tpot")
    assert unjudged.next.endswith("# at most 5 min")
    lost = of_reader(ItemOutcome("cpu"), failed=True, marks=(timed,))
    assert lost.next.endswith("-k test_x"), "a test that ended without a verdict is run again"
    assert of_reader(replace(unjudged, verdict="fail"), failed=True, marks=(timed,)).next == unjudged.next
    assert of_reader(ItemOutcome("cpu", "fail"), failed=True).metric == ""


def test_a_run_appends_its_summary_under_xdist_too(tmp_path: Path) -> None:
    file = tmp_path / "summary.md"
    run = suite(
        tmp_path, "-m", CPU, *numpy_engine(), "--no-upload",
        "-k", "test_top_probabilities or test_free_run", "-n", "1", f"--summary-markdown={file}",
        f"--references={tmp_path}", env={"GITHUB_ACTIONS": "true"},
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    text = file.read_text(encoding="utf-8")
    assert "2 PASS" in text
    assert text.startswith("### genqual: run ")
    assert "::" not in [line[:2] for line in run.stdout.splitlines()]
