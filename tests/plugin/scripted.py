"""Real pytest runs whose verdicts are written down: what a verdict makes of a run is then the suite's own doing.

`python -m tests.plugin.scripted FOLDER` prints, as JSON, the exit code, JUnit element and annotation of each verdict in
each mode. Only measuring is replaced, by `Benchmarks.publish`, and what is recorded; fixtures, hooks and exit are real.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest

from genqual.conformance.judgement import Judgement
from genqual.errors import NotApplicable, OutOfMemory, Unsupported
from genqual.gate.verdict import GateResult, Verdict
from genqual.ranks.client import Generator
from genqual.ranks.errors import GroupLost
from genqual.session import hardware
from genqual.session.benchmark import Benchmarks
from genqual.session.groups import Groups
from genqual.session.run_records import RunRecords
from tests.here import CPU

TIMED: Final = {
    "PASS": Verdict.PASS,
    "IMPROVED": Verdict.IMPROVED,
    "REGRESSED": Verdict.REGRESSED,
    "INCONCLUSIVE": Verdict.INCONCLUSIVE,
    "NO BASELINE": Verdict.NO_BASELINE,
    "RECORDED": Verdict.RECORDED,
}
RAISED: Final[dict[str, Callable[[], BaseException]]] = {
    "a rank was lost": lambda: GroupLost("rank 0 was killed by SIGKILL", None),
    "out of memory (property)": lambda: OutOfMemory("rank 0 ran out of memory"),
    "NOT APPLICABLE": lambda: NotApplicable("this engine shows no logits"),
    "unsupported": lambda: Unsupported("this engine cannot split this model"),
}
JUDGED: Final = {"FAIL": "fail", "NO REFERENCE": "no_reference"}
ROWS: Final = (*TIMED, "out of memory (timed)", *JUDGED, "HARDWARE", *RAISED, "absent device")
MODES: Final = {
    "plain": ("beside", ()),
    "--gate": ("beside", ("--gate",)),
    "waived": ("beside", ("--gate", "--waivers=waivers")),
    "alone": ("alone", ()),
    "alone --allow-absent": ("alone", ("--allow-absent",)),
}
SESSIONS: Final = {
    "a waiver has expired": ("--waivers=expired",),
    "no test is selected, no device in `-m`": ("-m", "", "-k", "no_such_test"),
    "no test is selected of the device in `-m`": ("-k", "no_such_test"),
    "the same with `--allow-absent`": ("-k", "no_such_test", "--allow-absent"),
    "an option is wrong": ("--ranks=x",),
    "the directory of `--baselines` is not there": ("--baselines=nowhere",),
}
SMALL: Final = (
    *("--engine", "transformers", "--model", "llama-tiny", "--dtype", "fp32", "--batch-sizes", "1"),
    *("--input-lengths", "16", "--new-tokens", "4", "--benchmark"),
)
CASE: Final = f"{CPU}-transformers-llama-tiny-fp32"
SUITE: Final = """
import pytest
from genqual.conformance.judgement import Judgement
from tests.plugin import scripted

@pytest.mark.performance("latency", metric="tpot")
def test_timed(benchmark_metric):
    benchmark_metric("tpot")

@pytest.mark.conformance("greedy")
def test_judged(verdict):
    scripted.raise_or_judge(verdict)

@pytest.mark.conformance("greedy")
def test_beside(verdict):
    verdict(Judgement("pass", "fp32", "logits", "All is well."))
"""
WAIVER: Final = (
    '[[waiver]]\ntest = "test_scripted.py::{}"\nsays = "[a-zA-Z]"\nissue = "tracker 12"\nexpires = {}-01-01\n'
)

LOG: Final = "dev/kmsg"
"""The kernel's log, below the folder that counters are read from."""

_row = ""


def raise_or_judge(judge: Callable[[Judgement], None]) -> None:
    """What the row says of the property under test."""
    if _row in RAISED:
        raise RAISED[_row]()
    if _row == "HARDWARE":  # within the window of a test that passes
        log = hardware.ROOT / LOG
        number = 100 + log.read_text(encoding="utf-8").count("\n")
        with log.open("a", encoding="utf-8") as stream:
            stream.write(f"2,{number},6000,-;EDAC MC1: 1 UE memory read error on DIMM#3 (channel:0)\n")
        judge(Judgement("pass", "fp32", "logits", "All is well."))
        return
    status: Any = JUDGED[_row]
    judge(Judgement(status, "fp32", "logits", "nrms 0.1 exceeds 1e-5.", nrms=0.1, limit=1e-5))


def publish(self: Benchmarks, case: Any, workload: Any, metric: str, *, label: str) -> Any:
    """In place of `Benchmarks.publish`: a measurement that was never made, with the gate's verdict on it."""
    oom = _row == "out of memory (timed)"
    verdict = Verdict.PASS if oom else TIMED[_row]
    estimate, interval = (0.06, (0.05, 0.07)) if verdict.judged else (None, None)
    gate = GateResult(verdict, "as written down", "key", estimate, interval, launches=3)
    return SimpleNamespace(
        record=Path("none.json"),
        measurement=SimpleNamespace(status="oom" if oom else "ok", message="rank 0 ran out of memory"),
        metrics={metric: SimpleNamespace(is_time=False)},
        gates={metric: gate},
    )


def scripted(row: str, mode: str, folder: Path) -> dict[str, Any]:
    """One real run: its exit code, what JUnit has for the row's test, and which annotation GitHub would show."""
    global _row
    _row = row
    company, options = MODES[mode]
    test = "test_timed" if row in TIMED or "(timed)" in row else "test_judged"
    asked = "hpu" if row == "absent device" else CPU
    wanted = f"{CPU} or {asked}" if company == "beside" else asked
    names = f"{test} or test_beside" if company == "beside" and asked == CPU else test
    if asked != CPU and company == "beside":
        names = "test_beside"
    junit = folder / "junit.xml"
    args = ["test_scripted.py", "-m", wanted, "-k", names, *SMALL, *options, "--no-upload", f"--junitxml={junit}"]
    code, said = ran(args)
    cases = [one for one in ET.parse(junit).iter("testcase") if test in one.get("name", "") or asked != CPU]
    of = next((one for one in cases if asked in one.get("name", "")), None)
    children = {child.tag for child in of} - {"properties"} if of is not None else set()
    kinds = sorted({line.split(" ")[0].strip(":") for line in said.splitlines() if line.startswith("::")})
    return {"exit": code, "junit": ", ".join(children) or "passed", "annotation": ", ".join(kinds) or "none"}


def ran(args: list[str]) -> tuple[int, str]:
    """Exit code and output of `pytest ARGS` in this process."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = pytest.main(["-p", "no:cacheprovider", "--state-dir=state", "--color=no", *args])
    return int(code), said.getvalue()


def session(options: tuple[str, ...]) -> int:
    """Exit code of a run in which the only test passed."""
    global _row
    _row = "PASS"
    chosen = options if "-m" in options else ("-m", CPU, *options)
    kept = chosen if "-k" in options else (*chosen, "-k", "test_beside")
    return ran(["test_scripted.py", *SMALL, *kept, "--no-upload"])[0]


def prepare(folder: Path) -> None:
    """The suite, its waivers, and what is replaced of measuring."""
    (folder / "test_scripted.py").write_text(SUITE, encoding="utf-8")
    (folder / "pytest.ini").write_text("[pytest]\naddopts = --import-mode=importlib\n", encoding="utf-8")
    for name, year in (("waivers", 2999), ("expired", 2001)):
        (folder / name).mkdir()
        tests = (f"test_timed[{CASE}-b1-i16-n4]", f"test_judged[{CASE}]")
        text = "".join(WAIVER.format(test, year) for test in tests)
        (folder / name / f"{CPU}.toml").write_text(text, encoding="utf-8")
    hardware.ROOT = folder / "root"
    (hardware.ROOT / LOG).parent.mkdir(parents=True)
    (hardware.ROOT / LOG).write_text("6,100,5000,-;the kernel has started\n", encoding="utf-8")
    benchmarks: Any = Benchmarks
    benchmarks.publish = publish
    groups: Any = Groups
    groups.inspection = lambda self, case: {}
    records: Any = RunRecords
    records.keep_manifest = lambda self, told, probed: None  # of records that were never written
    records.recorder = SimpleNamespace(
        written={},
        judgement=lambda *args, **fields: Path("none.json"),
        unsupported=lambda *args, **fields: Path("none.json"),
        without_numbers=lambda *args: None,
    )
    generator: Any = Generator
    generator.verify_unmutated = lambda self: True
    os.environ["GITHUB_ACTIONS"] = "true"
    os.environ.pop("GITHUB_STEP_SUMMARY", None)


def main(folder: Path) -> None:
    os.chdir(folder)
    prepare(folder)
    gc.freeze()  # pytest collects twice at the end of each run, and what is imported is no garbage of it
    verdicts = {row: {mode: scripted(row, mode, folder) for mode in MODES} for row in ROWS}
    print(
        json.dumps({"verdicts": verdicts, "sessions": {name: session(options) for name, options in SESSIONS.items()}})
    )


if __name__ == "__main__":
    # By its name, and not as __main__: the suite imports it and must find the row that was set.
    from tests.plugin import scripted as me

    me.main(Path(sys.argv[1]))
