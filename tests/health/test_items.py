"""The node's checks as test items of the suite: same list, same verdict in any order, no error that passes."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genqual.health import levels
from genqual.health.checks.base import Node
from genqual.health.finding import Finding, NodeVerdict, Outcome
from genqual.health.outcomes import bad
from genqual.session import node_items
from tests.here import CPU
from tests.plugin.suite import suite

STEPS = st.sampled_from(["ok", "bad", "mild", "unknown", "unavailable", "raise"])


class Scripted:
    """A check that yields what its script says, in order, and raises where the script says so."""

    summary, privileges, seconds, stretches = "for tests", "none", 1.0, False

    def __init__(self, name: str, script: tuple[str, ...], *, required: bool) -> None:
        self.name, self.script, self.required = name, script, required

    def __repr__(self) -> str:
        return f"{self.name}{self.script}{'!' if self.required else ''}"

    def run(self, node: Node, seconds: float) -> Iterable[Finding]:
        for number, step in enumerate(self.script):
            if step == "raise":
                raise OSError("cable out")
            if step in ("bad", "mild"):
                outcome = "edac.uncorrected" if step == "bad" else "edac.corrected"
                made = bad(outcome, f"part {number}", "seen", signal=1.0)
                yield made.model_copy(update={"check": self.name, "required": self.required})
            else:
                yield Finding(
                    check=self.name, entity=f"part {number}", outcome=Outcome(step), required=self.required,
                    signal=0.0 if step == "ok" else None, evidence="seen",
                )  # fmt: skip


def scripted(made: list[tuple[tuple[str, ...], bool]]) -> list[Scripted]:
    return [Scripted(f"check {number}", script, required=must) for number, (script, must) in enumerate(made)]


SCRIPTS = st.tuples(st.lists(STEPS, max_size=4).map(tuple), st.booleans())
CHECKS = st.lists(SCRIPTS, min_size=1, max_size=4).map(scripted)


def run(folder: Path, checks: list[Scripted]) -> NodeVerdict:
    """On a root without any counter, so that only the checks speak."""
    node = Node(CPU, (0,), folder, root=folder / "empty root")
    return levels.run(node, levels.Level("1", 60.0), name="n", hardware_class="c", checks=checks)


def broken(check: Scripted) -> bool:
    """By the script alone, without our code: something speaks against, was not known, or was never said."""
    silent = check.required and "unavailable" in check.script
    return silent or not check.script or bool({"bad", "unknown", "raise"} & set(check.script))


@settings(deadline=None)
@given(CHECKS, st.randoms())
def test_shuffling_the_checks_changes_no_verdict(
    tmp_path_factory: pytest.TempPathFactory, checks: list[Scripted], generator: random.Random
) -> None:
    folder = tmp_path_factory.getbasetemp()
    one = run(folder, checks)
    other = run(folder, generator.sample(checks, len(checks)))
    assert (one.verdict, one.reasons, one.exit_code) == (other.verdict, other.reasons, other.exit_code)


@settings(deadline=None)
@given(CHECKS)
def test_no_path_records_an_error_and_says_pass(
    tmp_path_factory: pytest.TempPathFactory, checks: list[Scripted]
) -> None:
    """Of the document, of its exit status, and of each check as a test item."""
    folder = tmp_path_factory.getbasetemp()
    verdict = run(folder, checks)
    assert (verdict.verdict == "unfit") == any(broken(one) for one in checks), (checks, verdict.reasons)
    assert verdict.exit_code == (1 if any(broken(one) for one in checks) else 0)
    for one in checks:
        status, why = node_items.outcome(run(folder, [one]), one.name)
        wanted = "fail" if broken(one) else "pass" if {"ok", "mild"} & set(one.script) else "not_applicable"
        assert status == wanted, (one, why)


def test_what_was_found_before_an_error_is_kept(tmp_path: Path) -> None:
    verdict = run(tmp_path, [Scripted("a", ("bad", "raise"), required=False)])
    said = {(one.entity, one.outcome) for one in verdict.findings if one.check == "a"}
    assert said == {("part 0", "bad"), ("host", "unknown")}


def collect(tmp_path: Path, *words: str) -> list[str]:
    result = suite(tmp_path, "--pyargs", "genqual.suites.qualification", "--collect-only", "-q", *words)
    return [line.rpartition("[")[2].rstrip("]") for line in result.stdout.splitlines() if "[" in line and "::" in line]


def test_the_items_are_the_list_of_checks(tmp_path: Path) -> None:
    names = [f"{CPU}-{one.name}" for one in levels.CHECKS]
    assert collect(tmp_path, "-m", f"{CPU} and qualification") == names
    assert collect(tmp_path, "-m", CPU, "--level", "2") == names
    assert collect(tmp_path, "-m", CPU) == [], "checks of the node take all cores: only who asks for them gets them"
    assert collect(tmp_path, "-m", f"{CPU} and not qualification") == []


def test_an_item_fails_for_what_its_check_found(pytester: pytest.Pytester) -> None:
    """A real check in a real pytest run, made wrong, then right: the document is kept, and the outcome is its own."""
    pytester.makeconftest(
        """
        from genqual.health import levels
        from genqual.health.checks.answers import KnownAnswers

        class Mute:
            name, summary, required, seconds, stretches, privileges = "mute", "", False, 1.0, False, "none"
            def run(self, node, seconds):
                from genqual.health.finding import Finding, Outcome
                yield Finding(check="mute", entity="host", outcome=Outcome.UNAVAILABLE, evidence="no such counter")

        KnownAnswers.seconds = 10.0  # a second of products in each dtype
        levels.SECONDS = {"1": 11.0}
        levels.CHECKS = (KnownAnswers(("--inject", "30")), Mute())
        """
    )
    result = pytester.runpytest_subprocess(
        "--pyargs", "genqual.suites.qualification", "-m", f"{CPU} and qualification", "-p", "no:cacheprovider",
        "--state-dir", str(pytester.path / "state"), "--no-upload",
    )  # fmt: skip
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*known_answers: unfit*", "*injected by its own test*", "*no such counter*"])
    result.stdout.fnmatch_lines(["*1 failed, 1 not applicable*"])
    (document,) = (pytester.path / "state" / "node").rglob("*known_answers.json")
    assert NodeVerdict.model_validate_json(document.read_text()).verdict == "unfit"
