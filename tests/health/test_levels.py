"""`genqual node`: real checks that are made to fail, a check that breaks, exit codes, the lock, the schema."""

from __future__ import annotations

import json
import os
import shlex
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner, Result
from filelock import FileLock

from genqual.cli import genqual
from genqual.health import levels
from genqual.health.checks.answers import KnownAnswers
from genqual.health.checks.base import Node
from genqual.health.checks.generation import Generation
from genqual.health.checks.siblings import Stragglers
from genqual.health.finding import Finding, NodeVerdict, Outcome, Severity, verdict_of
from genqual.health.outcomes import bad, table
from tests.here import CPU

ROOT = Path(__file__).resolve().parents[2]
CORES = tuple(sorted(os.sched_getaffinity(0)))


def here(tmp_path: Path, cores: tuple[int, ...] = CORES[:2]) -> Node:
    return Node(CPU, cores, tmp_path)


class Fake:
    """A check that says what it is told to, or breaks."""

    summary, privileges = "for tests", "none"

    def __init__(self, *findings: Finding, name: str = "fake", breaks: bool = False, stretches: bool = True) -> None:
        self.name, self.required, self.seconds, self.stretches = name, True, 5.0, stretches
        self._findings, self._breaks = findings, breaks
        self.given = 0.0

    def run(self, node: Node, seconds: float) -> Iterable[Finding]:
        self.given = seconds
        if self._breaks:
            raise RuntimeError("cable out")
        return self._findings


def good(name: str = "fake") -> Finding:
    return Finding(check=name, entity="core 0", outcome=Outcome.OK, required=True, signal=1.0)


def run(tmp_path: Path, *checks: Any, seconds: float = 60.0) -> NodeVerdict:
    level = levels.Level("1", seconds)
    return levels.run(here(tmp_path), level, name="n", hardware_class="c", checks=checks)


def test_a_check_that_breaks_is_unknown_and_the_others_still_run(tmp_path: Path) -> None:
    verdict = run(tmp_path, Fake(breaks=True), Fake(good("other"), name="other"))
    assert verdict.verdict == "unfit"
    assert any("cable out" in reason for reason in verdict.reasons)
    assert any(one.check == "other" and one.outcome == "ok" for one in verdict.findings)


def test_a_check_that_says_nothing_is_no_pass(tmp_path: Path) -> None:
    assert run(tmp_path, Fake()).verdict == "unfit"
    assert run(tmp_path, Fake(good())).verdict == "fit"


def test_the_time_that_is_left_goes_to_what_finds_more_with_it(tmp_path: Path) -> None:
    fixed, more = Fake(good("a"), name="a", stretches=False), Fake(good("b"), name="b")
    run(tmp_path, fixed, more, seconds=30.0)
    assert (fixed.given, more.given) == (5.0, 25.0)


def test_a_short_level_leaves_out_what_is_optional_and_says_so(tmp_path: Path) -> None:
    long, must = Fake(good("long"), name="long"), Fake(good("must"), name="must")
    long.required, long.seconds = False, 50.0
    found = {one.check: one for one in run(tmp_path, long, must, seconds=30.0).findings}
    assert (long.given, must.given) == (0.0, 30.0)
    assert (found["long"].outcome, found["must"].outcome) == ("unavailable", "ok")
    assert "50 s" in found["long"].evidence
    assert run(tmp_path, long, must, seconds=55.0).verdict == "fit"
    assert long.given == 50.0


@pytest.mark.parametrize("level", sorted(levels.SECONDS))
def test_the_checks_of_a_level_fit_its_time(level: str) -> None:
    whole = levels.Level(level, levels.SECONDS[level])
    kept = whole.fitting(levels.CHECKS)
    assert sum(whole.shares(kept)) == pytest.approx(whole.seconds)
    assert {one.name for one in levels.CHECKS if one.required} <= {one.name for one in kept}


def test_one_wrong_product_makes_the_node_unfit(tmp_path: Path) -> None:
    node = here(tmp_path, CORES[:1])
    fine = list(KnownAnswers().run(node, 10.0))
    assert [one.outcome for one in fine] == ["ok", "ok"]
    assert all(one.signal == 0.0 and "of" in one.evidence for one in fine)
    wrong = list(KnownAnswers(("--inject", "30")).run(node, 10.0))
    assert [one.outcome for one in wrong] == ["bad", "bad"]
    assert "injected by its own test" in wrong[0].evidence
    assert wrong[0].severity is Severity.FATAL
    assert wrong[0].action
    died = next(iter(KnownAnswers(("--dtype", "none")).run(node, 10.0)))  # the first of two, which start in turn
    assert died.outcome == "bad", "a process that dies"


@pytest.mark.skipif(len(CORES) < 2, reason="one core has no siblings")
def test_a_slow_core_is_named(tmp_path: Path) -> None:
    found = {one.entity: one for one in Stragglers({CORES[1]: 0.25}).run(here(tmp_path), 10.0)}
    assert found[f"core {CORES[1]}"].outcome == "bad", found
    (alone,) = Stragglers().run(here(tmp_path, CORES[:1]), 10.0)
    assert alone.outcome == "unavailable"


def test_generation_is_judged_by_the_suite_itself(tmp_path: Path) -> None:
    (fine,) = Generation().run(here(tmp_path), 30.0)
    assert (fine.outcome, fine.signal) == ("ok", 3.0), fine
    (silent,) = Generation(("--deselect", "genqual", "-k", "no_such_test")).run(here(tmp_path / "two"), 30.0)
    assert silent.outcome == "unknown", silent
    assert shlex.split(silent.next_command)[1:3] == ["-m", f"{CPU} and conformance"], "as a shell takes it"


def test_every_failing_outcome_has_component_severity_and_action() -> None:
    assert all(one.component and one.action and one.entity for one in table().values())
    with pytest.raises(KeyError):
        bad("edac.unheard_of", "mc0", "seen")
    mild = bad("edac.corrected", "mc0", "one", signal=1.0)
    assert mild.outcome == "ok", "a corrected error is told, and takes no node out of service"
    assert mild.severity is Severity.WARNING


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(levels, "run", lambda node, level, **more: _verdict(level.name, more["allowed"]))


def _verdict(level: str, allowed: Iterable[Any]) -> NodeVerdict:
    finding = bad("stragglers.slow", "core 1", "+9 %", signal=0.09) if level == "2" else good()
    return verdict_of([finding], required=[], node="n", hardware_class="c", level=level)


def call(*words: str) -> Result:
    return CliRunner().invoke(genqual, ["node", *words])


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--level", "1"], 0, "fit after"),
        (["--level", "2"], 1, "stragglers of core 1"),
        (["--device", "cuda"], 2, "absent"),
        (["--device", "abacus"], 2, "abacus"),
        (["--cores", "x"], 2, "invalid list 'x'"),
        (["--cores", "4096"], 2, "this process may use"),
        (["--allow", "nowhere.toml"], 2, "nowhere.toml"),
        (["--level", "9"], 2, "--level"),
    ],
)
def test_exit_codes(words: list[str], status: int, said: str) -> None:
    result = call(*words)
    assert result.exit_code == status, result.output
    assert said in result.output


@pytest.mark.usefixtures("quick")
def test_the_document_is_out_whether_or_not_it_can_be_written(tmp_path: Path) -> None:
    made = tmp_path / "new" / "node.json"
    result = call("--json", str(made))
    assert result.exit_code == 0, result.output
    assert json.loads(made.read_text()) == json.loads(result.stdout)
    result = call("--json", str(made / "node.json"))
    assert result.exit_code == 2, "1 would say unfit"
    assert json.loads(result.stdout)["verdict"] == "fit"
    assert "fit, and not written: --json" in result.stderr
    os.mkfifo(pipe := tmp_path / "pipe")
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)  # before anybody writes, and it never waits
    try:
        assert call("--json", str(pipe)).exit_code == 0
        assert json.loads(os.read(reader, 1 << 16))["verdict"] == "fit"
    finally:
        os.close(reader)
    assert pipe.is_fifo(), "no file took its place"


@pytest.mark.usefixtures("quick")
def test_a_flaw_in_an_allow_list_is_told_in_one_paragraph(tmp_path: Path) -> None:
    file = tmp_path / "known.toml"
    file.write_text('[[alow]]\noutcome = "edac.corrected"\n')
    result = call("--allow", str(file))
    assert result.exit_code == 2
    assert f"--allow {file}: unknown key 'alow', did you mean allow? (known are allow)\n" in result.output


@pytest.mark.usefixtures("quick")
def test_two_at_once_do_not_disturb_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    with FileLock(tmp_path / f"genqual-node-{os.getuid()}.lock"):
        result = call("--level", "1")
    assert result.exit_code == 2
    assert "another `genqual node`" in result.output


def test_the_document_is_what_its_schema_says(tmp_path: Path) -> None:
    schema = json.loads(CliRunner().invoke(genqual, ["schema", "node"]).output)
    published = json.loads((ROOT / "baselines" / "schema" / "node-1.1.json").read_text())
    assert schema == published, "the published schema is old: `genqual schema node` prints today's"
    document = json.loads(run(tmp_path, Fake(good())).model_dump_json())
    jsonschema.validate(document, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**document, "verdict": "unknown"}, schema)
