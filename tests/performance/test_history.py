"""What runs measured before is added to and never changed; what is torn or was edited is told and left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from genqual.cases import Json
from genqual.gate import case_launches
from genqual.gate.baseline_file import Launch
from genqual.gate.history import History, Past, build_here, builds_of, control_of
from genqual.gate.launch_plan import LaunchJob, frozen_shape
from tests.plugin.test_judging import CASE, GATED, launch, taken


def past(z: float, at: float, **changes: Any) -> Past:
    facts = {"run": "r", "subject": "s", "control": "c", "build": "b"} | changes
    return Past(at=at, launch=launch(z), **facts)


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History.of(tmp_path / "a state", "a-class")


def test_what_is_added_is_read_in_its_order(history: History) -> None:
    assert history.read() == []
    lines = [past(0.8, 1000.0), past(0.81, 1020.5), past(0.82, 5000.0, build="other")]
    history.add(lines[:2])
    before = history.path.read_bytes()
    history.add([])
    history.add(lines[2:])
    assert history.read() == lines
    assert history.path.read_bytes().startswith(before)
    assert history.problems == []


def test_a_torn_line_is_told_left_out_and_never_joined_with_the_next(history: History) -> None:
    history.add([past(0.8, 1000.0), past(0.81, 1020.0)])
    history.path.write_bytes(history.path.read_bytes()[:-20])
    history.add([past(0.82, 1040.0)])
    assert [one.launch.z for one in history.read()] == [0.8, 0.82]
    assert [("line 2 is left out" in one) for one in history.problems] == [True]


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda line: line.replace(b'"z":0.8,', b'"z":0.7,'), "its hash differs (torn by an interruption, or edited)"),
        (lambda line: line.replace(b'"at":1000.0', b'"at":9000.0'), "its hash differs"),
        (lambda line: line.replace(b'"version":1', b'"version":2'), "its hash differs"),
        (lambda line: b"[" * 100_000, ""),
        (lambda line: b"null", ""),
        (lambda line: b'{"sha256": 1}', ""),
        (lambda line: b"\xff\xfe", ""),
    ],
)
def test_an_edited_line_is_told_and_left_out(history: History, edit: Any, said: str) -> None:
    history.add([past(0.8, 1000.0), past(0.81, 1020.0)])
    first, second, _ = history.path.read_bytes().split(b"\n")
    history.path.write_bytes(edit(first) + b"\n" + second + b"\n")
    assert [one.launch.z for one in history.read()] == [0.81]
    (problem,) = history.problems
    assert problem.startswith(f"{history.path}: line 1 is left out: ")
    assert said in problem


def test_a_line_of_a_later_version_is_left_out(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genqual.gate.history.VERSION", 2)
    history.add([past(0.8, 1000.0)])
    monkeypatch.undo()
    assert history.read() == []
    assert "version 2, and this genqual reads 1" in history.problems[0]


def test_occasions_are_told_by_the_clock_and_builds_are_kept_apart() -> None:
    lines = [
        *(past(z, at) for z, at in ((0.80, 0.0), (0.81, 800.0), (0.82, 1600.0))),  # a gap of 800 s is none
        *(past(0.7, at, build="d") for at in (900.0, 9000.0)),
        *(past(z, at) for z, at in ((0.83, 9000.0), (0.84, 9010.0))),
        *(past(0.1, 0.0, **other) for other in ({"subject": "t"}, {"control": "d"})),
    ]
    assert builds_of(lines, "s", "c") == [[[0.80, 0.81, 0.82], [0.83, 0.84]], [[0.7], [0.7]]]
    assert builds_of(lines, "x", "c") == []


def test_a_clock_that_went_back_is_told_and_makes_no_occasion(history: History) -> None:
    history.add([past(0.8, 9000.0), past(0.81, 1000.0), past(0.82, 1020.0)])
    found = history.read()
    assert builds_of(found, "s", "c") == [[[0.8, 0.81, 0.82]]]
    (problem,) = history.problems
    assert "at line 2 the clock had gone back by 8000 s" in problem


def test_what_cannot_be_compared_has_another_control() -> None:
    one = launch(0.8)
    each: list[tuple[str, str, Json, str, Launch]] = [
        ("1", "a", None, "steps", one),
        ("2", "a", None, "steps", one),
        ("1", "b", None, "steps", one),
        ("1", "a", {"hidden": 64}, "steps", one),
        ("1", "a", None, "requests", one),
        ("1", "a", None, "steps", one.model_copy(update={"steps": 1})),
    ]
    names = {control_of({"torch": torch}, source, shape, hook, kept) for torch, source, shape, hook, kept in each}
    assert len(names) == 6
    assert build_here({"torch": "1"}) != build_here({"torch": "2"})


def test_a_launch_is_kept_by_metric_without_what_is_exact_or_disturbed() -> None:
    job = LaunchJob.of(["tpot", "peak_memory"], GATED, frozen_shape(31_000_000, "bf16"), slowdown=0.05, ranks=1)
    both = taken(0.8)
    both = type(both)({**both.metrics, "peak_memory": launch(18.0)}, both.probes)
    (kept,) = case_launches.past_of(CASE, ["w" * 64], job, both, "a-run")
    assert (kept.launch, kept.run) == (both.metrics["tpot"], "a-run")
    asleep = taken(0.8, probes={"suspended_s": 60.0})
    assert case_launches.past_of(CASE, ["w" * 64], job, asleep, "a-run") == []
    assert json.loads(kept.line())["subject"] == kept.subject
