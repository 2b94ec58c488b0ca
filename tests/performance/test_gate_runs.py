"""The record of real runs: its order, its lines, its baselines, its table; the gate's command is a script here."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from genqual.gate.baseline_builder import merged
from tests.benchmarks import gate_runs
from tests.benchmarks.gate_command import Gate, Judged
from tests.benchmarks.over_time.pinned_build import Build
from tests.benchmarks.runs import baselines, page, record, rules
from tests.benchmarks.runs.baselines import MORE_WORK, UNCHANGED, Shelf
from tests.here import python_script
from tests.performance.files import ENTRY

HEAD = {"class": "made-up", "host": "abc", "boot": "def", "commit": "c" * 40, "began": "2026-11-30T01:02:03+00:00"}
REPORT = """<testsuite><testcase><properties><property name="genqual_verdict" value="pass"/>
<property name="genqual_estimate" value="0.01"/></properties></testcase></testsuite>"""

# Stands for the pinned build's Python: what it is asked is kept, and what the real one would leave behind is written.
SCRIPT = f"""
import json, os, signal, sys, time
from pathlib import Path
words = sys.argv[1:]
with open(os.environ["ASKED"], "a") as stream:
    stream.write(json.dumps([words, os.environ["GENQUAL_TEST_SLOW_SIDE"], os.environ["GENQUAL_TEST_SLOWDOWN"]]) + "\\n")
launches = Path(os.environ["GENQUAL_TEST_LAUNCHES"])
def launch(z, of=0, side="now"):
    steps = dict(mean=0.01, min=0.009, median=0.01, stddev=0.001)
    line = dict(list=of, side=side, took_s=12.0, failed="", probes=dict(), step_s=steps, launch=dict(z=z))
    with launches.open("a") as stream:
        stream.write(json.dumps(line) + "\\n")
if "rebase" in words:
    kept = Path(os.environ["GENQUAL_CACHE"]) / "rebase" / "one.jsonl"
    done = len(kept.read_text().splitlines()) if kept.exists() else 0
    with kept.open("a") as stream:
        stream.write(json.dumps(dict(at=time.time())) + "\\n")
    launch(0.8)
    if done < 2:
        print("pause of 1800 s between batches", flush=True)
        time.sleep(60)
    out = next(word for word in words if word.startswith("--out=")).removeprefix("--out=")
    (Path(out) / "made-up.json").write_text(os.environ["FILE"])
    kept.unlink()
else:
    for index in range(3):
        launch(0.8 + 0.001 * index)
    launch(0.8, 1)
    launch(0.8, 2, "then")
    Path(next(w for w in words if w.startswith("--junitxml=")).removeprefix("--junitxml=")).write_text({REPORT!r})
"""


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """A shell that starts the tests in the background has SIGINT ignored, and what they start inherits that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the script keeps what it was asked."""
    monkeypatch.setenv("ASKED", str(tmp_path / "asked"))
    now = ENTRY.provenance.model_copy(update={"date": datetime.now(UTC)})
    fresh = ENTRY.model_copy(update={"provenance": now}).sealed()
    monkeypatch.setenv("FILE", merged(None, "made-up", {}, {ENTRY.subject.key: fresh}))
    return tmp_path / "asked"


@pytest.fixture
def occasion(tmp_path: Path, asked: Path) -> gate_runs.Occasion:
    script = tmp_path / "python"
    script.write_text(python_script(SCRIPT))
    script.chmod(0o755)
    gate = Gate(("--model=llama-30m",), str(script), tmp_path)
    first = {**HEAD, "versions": {"torch": "2"}}
    (tmp_path / "state").mkdir()
    return gate_runs.Occasion(Build(script, tmp_path), tmp_path / "state", tmp_path / "record" / "made-up", first, gate)


def asks(asked: Path) -> list[tuple[str, str, str]]:
    """What was started, in turn: the command, which build was slow, by how much."""
    lines = [json.loads(line) for line in asked.read_text().splitlines()]
    return [("rebase" if "rebase" in words else "pytest", side, work) for words, side, work in lines]


def of_earlier(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all that there is be of an earlier occasion."""
    monkeypatch.setattr(baselines, "OCCASION_S", -1e9)


def test_kinds_are_mixed_in_proportion_and_in_one_order() -> None:
    whole = list(islice(record.order(0, list(record.WANTED)), 190))
    assert Counter(whole) == record.WANTED
    for start in range(0, 190, 19):
        assert Counter(whole[start : start + 19]) == {"same": 10, "slower": 5, "faster": 2, "paired": 2}
    assert whole[:19] != whole[19:38]
    assert list(islice(record.order(7, list(record.WANTED)), 50)) == whole[7:57]
    assert set(islice(record.order(3, ["slower"]), 20)) == {"slower"}


def test_a_line_that_a_kill_cut_short_costs_that_line_alone(tmp_path: Path) -> None:
    path = tmp_path / "class" / "one.jsonl"
    record.append(path, {"kind": "same"})
    with path.open("a") as stream:
        stream.write('{"version": 1, "kind": "sl')
    record.append(path, {"kind": "faster"})
    assert [one["kind"] for one in record.read(path)] == ["same", "faster"]
    assert [one["kind"] for one in record.runs(tmp_path)] == ["same", "faster"]
    path.write_text('{"version": 2}\n')
    with pytest.raises(ValueError, match="version 2"):
        record.read(path)


def test_a_baseline_is_made_on_three_occasions_and_judges_on_a_later_one(
    occasion: gate_runs.Occasion, asked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gate_runs.collect(1, list(gate_runs.KINDS), occasion) is None
    assert gate_runs.collect(1, list(gate_runs.KINDS), occasion) is None  # of the same occasion: nothing is made
    assert asks(asked) == [("rebase", "", "0.0")]
    shelf = occasion.shelf
    assert (occasion.state / "cache" / "rebase").readlink() == shelf.unfinished(UNCHANGED)
    for path in shelf.unfinished(UNCHANGED).glob("*.jsonl"):
        path.write_text(json.dumps({"at": time.time() - 1000}) + "\n")
    gate_runs.collect(1, ["same"], occasion)
    for path in shelf.unfinished(UNCHANGED).glob("*.jsonl"):
        path.write_text("".join(json.dumps({"at": time.time() - 1000 - n}) + "\n" for n in range(2)))
    assert gate_runs.collect(1, ["same"], occasion) is None  # whole, and of this occasion
    assert asks(asked) == [("rebase", "", "0.0")] * 3
    assert shelf.entry(UNCHANGED) is not None
    made = shelf.entry(UNCHANGED).provenance.date.timestamp()  # type: ignore[union-attr]
    assert shelf.usable(UNCHANGED, made + 899) is None
    assert shelf.usable(UNCHANGED, made + 901) is not None


def test_each_kind_slows_the_build_that_it_says_and_leaves_a_line(
    occasion: gate_runs.Occasion, asked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_earlier(monkeypatch)
    for _ in range(4):
        gate_runs.collect(0, ["faster"], occasion)  # a third batch makes the file; then those of more work
    asked.write_text("")
    monkeypatch.setattr(record, "order", lambda start, kinds: iter(kinds))
    path = gate_runs.collect(1, list(gate_runs.KINDS), occasion)
    tolerance = str(occasion.shelf.entry(UNCHANGED).tolerance)  # type: ignore[union-attr]
    assert asks(asked) == [
        ("rebase", "now", tolerance),
        ("pytest", "", "0.0"),
        ("pytest", "now", tolerance),
        ("pytest", "then", tolerance),
        ("pytest", "now", "0.03"),
    ]
    said = [json.loads(line)[0] for line in asked.read_text().splitlines()]
    assert ["--gate-tolerance=0.03" in words for words in said] == [False, False, False, False, True]
    assert path is not None
    lines = record.read(path)
    assert [one["kind"] for one in lines] == ["same", "slower", "faster", "paired"]
    assert [one["baseline"]["name"] for one in lines] == [UNCHANGED, UNCHANGED, MORE_WORK, UNCHANGED]
    one = lines[0]
    assert (one["verdict"], one["estimate"], one["exit"]) == ("pass", "0.01", 0)
    assert (one["seconds"]["stage_one"], one["seconds"]["stage_two"]) == (36.0, 24.0)
    assert [launch["list"] for launch in one["launches"]] == [0, 0, 0, 1, 2]
    assert one["baseline"]["step_s"]["mean"] == 0.01
    assert {name: one[name] for name in ("class", "host", "boot", "commit")} == {
        name: HEAD[name] for name in ("class", "host", "boot", "commit")
    }


def test_a_run_that_died_is_in_the_record(
    occasion: gate_runs.Occasion, asked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_earlier(monkeypatch)
    for _ in range(3):
        gate_runs.collect(0, ["same"], occasion)
    script = Path(occasion.gate.python)
    script.write_text("#!/bin/sh\necho the reason; exit 3\n")
    path = gate_runs.collect(0.01, ["same"], occasion)
    assert path is not None
    for one in record.read(path):
        assert (one["verdict"], one["launches"]) == ("none, exit 3", [])
        assert "the reason" in one["output"]
        assert rules.former(one) == rules.compared("mean")(one) == rules.OPEN


def test_a_run_that_takes_too_long_is_ended_as_by_ctrl_c(tmp_path: Path) -> None:
    script = tmp_path / "python"
    script.write_text(python_script("import time\ntry: time.sleep(60)\nexcept KeyboardInterrupt: print('told')\n"))
    script.chmod(0o755)
    done = Gate((), str(script), tmp_path).judge(tmp_path / "junit.xml", timeout_s=1.0)
    assert isinstance(done, Judged)
    assert (done.verdict, done.output, done.message) == ("none, exit 0", "told\n", "not done within 1 s; ")


def test_what_a_background_shell_starts_is_interrupted_all_the_same() -> None:
    """Such a shell has SIGINT ignored, and programs inherit that: the pause of `rebase` would be waited for."""
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); from tests.benchmarks import gate_runs\n"
        "gate_runs.heed_signals()\n"
        "import subprocess; from tests.benchmarks.runs import baselines; from pathlib import Path\n"
        "slow = 'import time; print(\"pause of 1 s\", flush=True); time.sleep(60)'\n"
        "print(baselines.until_pause([sys.executable, '-c', slow], Path.cwd(), {}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=False)
    assert done.stdout == "True\n", done.stderr


@pytest.mark.parametrize(
    "start",
    ["Gate((), sys.argv[1], Path.cwd()).judge(Path('junit.xml'))", "until_pause(sys.argv[1:], Path.cwd(), {})"],
    ids=["run", "baseline"],
)
def test_what_runs_ends_with_a_runner_that_is_killed(start: str, tmp_path: Path) -> None:
    script = tmp_path / "python"
    script.write_text(
        python_script(
            f"import os, time\nopen({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)\n"
        )
    )
    script.chmod(0o755)
    code = (
        "import sys; from pathlib import Path; from tests.benchmarks.gate_command import Gate\n"
        f"from tests.benchmarks.runs.baselines import until_pause\n{start}\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(script)]) as runner:
        deadline = time.monotonic() + 40
        while not (tmp_path / "pid").is_file() or not (tmp_path / "pid").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        runner.kill()
    child = Path("/proc") / (tmp_path / "pid").read_text() / "cmdline"
    while child.is_file() and child.read_bytes():  # a zombie has none
        assert time.monotonic() < deadline, "it goes on"
        time.sleep(0.05)


def run(kind: str, verdict: str, *, z: float = 0.8, mean: float = 0.01, at: float = 0.0, pairs: float = 0.0) -> Any:
    """A line of the record."""
    steps = {"mean": mean, "min": 0.009, "median": 0.01}
    launch = {"list": 0, "side": "now", "launch": {"z": z}, "step_s": steps, "took_s": 12.0}
    base = {"name": UNCHANGED, "digest": "d" * 64, "z": [0.8 + 0.003 * (n % 3) for n in range(9)], "step_s": steps}
    base["step_s"] = {"mean": 0.01, "min": 0.009, "median": 0.01}
    seconds = {"whole": 50.0 + pairs, "stage_one": 36.0, "stage_two": pairs}
    return {"kind": kind, "verdict": verdict, "at": at, "host": "abc", "seconds": seconds, "launches": [launch] * 3} | {
        "baseline": base,
        "commit": "c" * 40,
    }


def test_other_rules_are_asked_of_the_same_launches() -> None:
    assert rules.former(run("same", "pass")) == "pass"
    assert rules.former(run("same", "pass", z=0.9)) == "regressed"
    assert rules.former(run("same", "pass", z=0.7)) == "improved"
    assert rules.compared("mean")(run("same", "pass", mean=0.0106)) == "regressed"
    assert rules.compared("mean")(run("same", "pass", mean=0.0104)) == "pass"
    assert rules.compared("min")(run("same", "pass", mean=0.0106)) == "pass"


def test_occasions_are_a_quarter_of_an_hour_apart_whichever_file_they_are_in() -> None:
    found = [run("same", "pass", at=at) for at in (0, 800, 1600, 2600, 9000)]
    assert record.occasions(found) == 3
    found[4]["host"] = "another"
    found[4]["at"] = 2600
    assert record.occasions(found) == 3


@pytest.mark.parametrize(
    ("kind", "verdicts", "said"),
    [
        ("same", {"pass": 95, "inconclusive": 5}, "yes"),
        ("same", {"pass": 94, "inconclusive": 6}, "NO"),
        ("same", {"pass": 99, "regressed": 1}, "NO"),
        ("same", {"pass": 99, "improved": 1}, "NO"),
        ("same", {"pass": 20}, "too few"),
        ("slower", {"regressed": 49, "inconclusive": 1}, "yes"),
        ("slower", {"regressed": 49, "pass": 1}, "NO"),
        ("slower", {"regressed": 48, "inconclusive": 2}, "NO"),
        ("slower", {"regressed": 5, "none, exit 3": 2}, "NO"),
        ("faster", {"improved": 18, "pass": 2}, "yes"),
        ("faster", {"improved": 17, "pass": 3}, "NO"),
        ("paired", {"regressed": 19, "pass": 1}, "yes"),
        ("paired", {"regressed": 18, "pass": 2}, "NO"),
    ],
)
def test_the_promise_is_shown_refuted_or_open(kind: str, verdicts: dict[str, int], said: str) -> None:
    found = [
        run(kind, verdict, at=1000.0 * number)
        for number, verdict in enumerate(word for word, count in verdicts.items() for _ in range(count))
    ]
    assert page.promised(kind, found).startswith(said)
    assert page.promised(kind, [{**one, "at": 0.0} for one in found]) == (
        "too few: 100 runs on 6 occasions" if kind == "same" and said == "yes" else page.promised(kind, found)
    )


def test_a_promise_of_seconds_is_told_apart() -> None:
    found = [run("paired", "regressed", pairs=101.0) for _ in range(20)]
    assert page.promised("paired", found) == "yes, but p95 of with pairing is too long"
    assert page.promised("paired", [run("paired", "regressed", pairs=99.0) for _ in range(20)]) == "yes"


def test_the_table_goes_between_its_markers(tmp_path: Path) -> None:
    target = tmp_path / "page.md"
    target.write_text(f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n")
    made = page.text([run("same", "pass"), run("slower", "regressed", z=0.9, mean=0.0111, pairs=40.0)])
    page.put(target, made)
    text = target.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert "| 1 same | 1 | 1 | 1 PASS | 50, 50 | 0 | too few: 100 runs on 6 occasions |" in text
    assert "| 1 slower | 1 | 1 | 1 REGRESSED | - | 1: 90, 90 | too few: 50 runs |" in text
    assert "| mean * 1.05, pytest-benchmark mean:5% | 1 PASS | 1 REGRESSED |" in text
    page.put(target, page.text([]))
    assert "no runs yet" in target.read_text()
    target.write_text("nothing")
    with pytest.raises(SystemExit, match="no place for the table"):
        page.put(target, made)


def test_the_page_has_the_markers() -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    assert text.count(page.BEGIN) == text.count(page.END) == 1


def test_the_shelf_of_a_commit_is_its_own(tmp_path: Path) -> None:
    assert Shelf(tmp_path, "a" * 40).folder(UNCHANGED) != Shelf(tmp_path, "b" * 40).folder(UNCHANGED)
