"""What a test told: typed on its item, the same behind an xdist worker, and in JUnit's XML by the names of before."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import execnet
import pytest

from genqual.session import outcome
from genqual.session.outcome import GateChange, ItemOutcome
from genqual.storage.spool import Spool
from tests.here import CPU
from tests.plugin.suite import numpy_engine, suite
from tests.results.make import record

WHOLE = ItemOutcome(
    device="cpu",
    verdict="regressed",
    reason="the host slept",
    records=(Path("/spool/a b.json"), Path("/spool/ü.json")),
    text="case: one [...] two",
    limit="case b1-i2-n3 MEETS",
    change=GateChange(0.0512, (0.031, 0.0725), 8),
    failure="EngineFailed: first line\nsecond line",
    metric="tpot",
    next="pytest -m cpu -k tpot  # 1 to 4 min",
)


def report() -> pytest.TestReport:
    made = pytest.TestReport("suite.py::test_a", ("suite.py", 3, "test_a"), {}, "failed", "slower", "call")
    made.user_properties = [("mine", 3)]
    return made


def test_an_outcome_crosses_to_another_process_whole() -> None:
    """By execnet's own coder, which is what xdist sends a report with, and which takes builtin types only."""
    assert all(getattr(WHOLE, each.name) for each in fields(ItemOutcome)), "a field that is empty here proves nothing"
    told = report()
    outcome.attach(told, WHOLE)
    data = told._to_json()
    outcome.pack(data)
    assert sum(isinstance(value, str) and "host slept" in value for value in data.values()) == 1, "one JSON text"
    again = pytest.TestReport._from_json(execnet.loads(execnet.dumps(data)))
    outcome.unpack(again)
    assert outcome.of_report(again) == WHOLE
    assert again.user_properties == told.user_properties


def test_a_report_of_somebody_else_s_test_has_an_empty_outcome() -> None:
    data = report()._to_json()
    outcome.pack(data)
    again = pytest.TestReport._from_json(data)
    outcome.unpack(again)
    assert outcome.of_report(again) == ItemOutcome()
    assert not outcome.of_report(SimpleNamespace()).judged


def test_junit_has_the_names_and_the_forms_that_users_read() -> None:
    told = report()
    outcome.attach(told, WHOLE)
    assert told.user_properties == [
        ("mine", 3),
        ("genqual_device", "cpu"),
        ("genqual_text", "case: one [...] two"),
        ("genqual_record", "/spool/a b.json"),
        ("genqual_record", "/spool/ü.json"),
        ("genqual_estimate", "+0.0512"),
        ("genqual_interval", "+0.0310 +0.0725"),
        ("genqual_launches", "8"),
        ("genqual_limit", "case b1-i2-n3 MEETS"),
        ("genqual_verdict", "regressed"),
        ("genqual_metric", "tpot"),
        ("genqual_next", "pytest -m cpu -k tpot  # 1 to 4 min"),
    ]


def test_a_field_that_no_outcome_has_is_an_error() -> None:
    item: Any = SimpleNamespace(stash=pytest.Stash())
    outcome.tell(item, verdict="pass")
    with pytest.raises(TypeError, match="verdikt"):
        outcome.tell(item, verdikt="fail")
    assert outcome.of_item(item) == ItemOutcome(verdict="pass")


SPY = """
from pathlib import Path

import pytest

from genqual.records.record import Record
from genqual.session.context import RUN

read_bytes, reads = Path.read_bytes, []

def counted(path):
    data = read_bytes(path)
    if path.parent.name == "spool":
        reads.append(path)
    return data

Path.read_bytes = counted

@pytest.hookimpl(wrapper=True)
def pytest_terminal_summary(terminalreporter, config):
    result = yield
    terminalreporter.write_line(f"read from disk: {len(reads)}, of them different: {len(set(reads))}")
    shown = config.stash[RUN].records
    ids = [path.stem for path in (config.stash[RUN].state / "spool").glob("*.json")]
    same = [repr(one) == repr(Record.from_bytes(read_bytes(shown.spool.directory / f"{one.id}.json")))
            for one in shown.find(ids)]
    terminalreporter.write_line(f"in memory as a reader has them: {set(same)}")
    return result
"""
ONE = ("-m", f"{CPU} and conformance", *numpy_engine())
JUDGED = ("top_probabilities", "free_run")
KEYWORDS = f"{JUDGED[0]} or {JUDGED[1]} or split_over_devices"  # the last is not applicable


def ran(state: Path, *args: str) -> tuple[str, dict[str, list[tuple[str | None, str]]]]:
    """What a run of three tests says, and JUnit's properties by test, with what differs from run to run left out."""
    run = suite(
        state, *ONE, "-k", KEYWORDS, "-p", "spy", f"--junitxml={state}/junit.xml", *args,
        env={"PYTHONPATH": str(state)}, timeout=500,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    cases = {
        str(case.get("name")): [
            (one.get("name"), str(one.get("value")) if one.get("name") != "genqual_record" else "a record")
            for one in case.iter("property")
        ]
        for case in ET.parse(state / "junit.xml").iter("testcase")
    }
    return run.stdout, cases


def test_a_run_reads_no_record_of_its_own_and_a_controller_each_once(tmp_path: Path) -> None:
    (tmp_path / "spy.py").write_text(SPY)
    Spool(tmp_path / "spool").write(record())  # by another process that uses this directory
    alone, cases = ran(tmp_path)
    assert "2 records of run" in alone
    assert "read from disk: 1, " in alone, "what another process left unsent, and nothing that this one wrote"
    assert "3 sent, 3 new there" in alone
    assert "in memory as a reader has them: {True}" in alone
    assert "1 x NOT APPLICABLE: external does not split layers over devices" in alone
    assert sorted(map(len, cases.values())) == [2, 3, 3]
    workers, beside = ran(tmp_path, "-n", "2")
    assert "2 records of run" in workers
    assert "read from disk: 2, of them different: 2" in workers, "the workers' records, once for all three uses"
    assert "2 sent, 2 new there" in workers
    assert "1 x NOT APPLICABLE: external does not split layers over devices" in workers
    assert beside == cases, "JUnit says the same of a test whichever process ran it"
