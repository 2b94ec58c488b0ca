"""`[performance.limits]` of a profile, as a user sees it: an item each, MEETS or MISSES, and the run's outcome."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from genqual.cases import Case, Workload
from genqual.errors import BadInput
from genqual.gate.controller import Question
from genqual.gate.launch_plan import gated_workloads
from genqual.gate.verdict import GateResult, Verdict
from genqual.metrics.compute import Measured
from genqual.metrics.measure import Measurement
from genqual.session.benchmark import Benchmarks, Measuring, judged
from tests.here import CPU, PYTHON
from tests.plugin.suite import EXAMPLE, suite

PROFILE = """
[performance]
batch_sizes = [2]
input_lengths = [8]
new_tokens = 4
repetitions = 2
[performance.limits]
tpot_ms = 1e6
tokens_per_s = 1e9
[[performance.cases]]
engine = "external"
models = ["llama-tiny"]
dtypes = ["fp32"]
"""
ASKED = ("--benchmark", "--engine-command", EXAMPLE, "--no-upload")


def test_a_limit_is_an_item_that_passes_or_fails(tmp_path: Path) -> None:
    profile = tmp_path / "promises.toml"
    profile.write_text(PROFILE)
    run = suite(tmp_path, "-m", CPU, *ASKED, f"--profile={profile}", "-k", "test_a_limit")
    assert run.returncode == 1, run.stdout + run.stderr
    assert "1 failed, 1 passed" in run.stdout
    assert "genqual: limits of the profile" in run.stdout
    assert "b2-i8-n4 MEETS tpot_ms = 1e+06:" in run.stdout
    assert "b2-i8-n4: MISSES tokens_per_s = 1e+09:" in run.stdout


def test_a_limit_alone_launches_nothing(tmp_path: Path) -> None:
    """Against another build, where the gate needs no baseline: its verdict would be read by nobody."""
    build = tmp_path / "env"
    (build / "bin").mkdir(parents=True)
    (build / "bin" / "python").write_text(f'#!/bin/sh\nexec {PYTHON} "$@"\n')
    (build / "bin" / "python").chmod(0o755)
    profile = tmp_path / "promises.toml"
    profile.write_text(PROFILE)
    run = suite(
        tmp_path, "-m", CPU, *ASKED, f"--profile={profile}", "-k", "test_a_limit and tpot",
        f"--baseline-from={build}", "--gate-budget", "1",
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    assert "1 passed" in run.stdout
    assert len(list((tmp_path / "logs").glob("*/*"))) == 1, "one group of ranks measured, and no other was started"


class Script:
    """Stands in for gate and recorder: what was judged, and with which verdicts a record was written."""

    def __init__(self, *asked: str) -> None:
        self.question = Question({CASE: frozenset(asked)} if asked else {}, GATED, Path("nowhere"))
        self.judged: list[str] = []
        self.records: list[list[str]] = []
        self.statuses: list[str] = []
        self.broken: BaseException | None = None
        self.wrong: set[Case] = set()

    def judge(self, generator: Any, weights: Any, workload: Workload, one: Measured) -> GateResult:
        self.judged.append(one.name)
        if self.broken is not None:
            raise self.broken
        return GateResult(Verdict.REGRESSED, "slower", "key", 0.1, (0.05, 0.15), launches=3)

    @contextlib.contextmanager
    def attempt(self, case: Case, workload: Workload, **_: Any) -> Iterator[None]:
        yield

    def measurement(self, case: Case, workload: Workload, found: Any, gates: Any, **_: Any) -> Path:
        self.records.append(sorted(gates))
        self.statuses.append(_["status"])
        return Path(f"record{len(self.records)}")


CASE = Case(CPU, "transformers", "llama-tiny", "fp32")
WORKLOAD = Workload(2, 8, 4)
GATED = gated_workloads([WORKLOAD])
METRIC = Measured("ttft", "s", 0.01, (0.01,), "median", "lower")


def ask(script: Script, *metrics: str | None, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is published when items ask about `metrics` in that order."""
    benchmarks = benchmarks_of(script, monkeypatch)
    return [benchmarks.publish(CASE, WORKLOAD, one, label="") for one in metrics]


def benchmarks_of(script: Script, monkeypatch: pytest.MonkeyPatch) -> Benchmarks:
    """Real benchmarks of a measurement that was never made."""
    measuring = Measuring(1, lambda text: None)
    known = {name: Measured(name, "s", 0.01, (0.01,), "median", "lower") for name in ("ttft", "tpot")}
    run = SimpleNamespace(wall_s=1.0, cached_tokens=None, pieces=None)
    made = Measurement("ok", WORKLOAD, (), (run,), 1)  # type: ignore[arg-type]
    monkeypatch.setattr(measuring, "_measure", lambda generator, workload: made)
    monkeypatch.setattr(measuring, "_metrics", lambda generator, measured: known)
    live = SimpleNamespace(live=lambda plan: None)
    groups = SimpleNamespace(pool=live, generator=lambda case: SimpleNamespace(case=case, plan=None))
    references = SimpleNamespace(weights_sha256=lambda model: None)
    gate = SimpleNamespace(label=lambda case, workload, nodeid: nodeid, excuse=lambda *which: None)
    accuracy = SimpleNamespace(is_wrong=lambda case: case in script.wrong)
    parts: list[Any] = [groups, references, script, gate, measuring, script, accuracy]
    return Benchmarks(*parts)


def test_a_limit_has_the_gate_judge_what_other_items_ask_about_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alone = Script()
    (found,) = ask(alone, None, monkeypatch=monkeypatch)
    assert (alone.judged, found.gates) == ([], {})
    assert alone.question.metrics == 1, "alpha is split over what is asked, and a limit asks nothing"
    beside = Script("tpot")
    limit, timed = ask(beside, None, "tpot", monkeypatch=monkeypatch)
    assert beside.judged == ["tpot"]
    assert limit.gates["tpot"] is timed.gates["tpot"], "the verdict that was paid for is the item's that asks for it"


def test_measuring_judges_nothing_and_judging_measures_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    script, measuring = Script("ttft"), Measuring(1, lambda text: None)
    asked: list[Workload] = []
    run = SimpleNamespace(wall_s=1.0, cached_tokens=None, pieces=None)
    made = Measurement("ok", WORKLOAD, (), (run,), 1)  # type: ignore[arg-type]

    def measure(generator: Any, workload: Workload) -> Measurement:
        asked.append(workload)
        return made

    monkeypatch.setattr(measuring, "_measure", measure)
    monkeypatch.setattr(measuring, "_metrics", lambda generator, measured: {"ttft": METRIC})
    generator: Any = SimpleNamespace(case=CASE)
    found = [measuring.measured(generator, WORKLOAD, inspect=lambda: {"threads": 1}) for _ in range(2)]
    assert (asked, script.judged) == ([WORKLOAD], []), "measured once, for all who ask; judged by nobody yet"
    assert [(one.metrics, one.inspection) for one in found] == [({"ttft": METRIC}, {"threads": 1})] * 2
    gates = judged(script, generator, found[0], None)  # type: ignore[arg-type]
    assert list(gates) == script.judged == ["ttft"]
    assert asked == [WORKLOAD]


def test_a_metric_that_is_asked_about_after_a_limit_gets_its_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a third party's test, whose mark does not name it."""
    script = Script()
    _, timed = ask(script, None, "tpot", monkeypatch=monkeypatch)
    assert timed.gates["tpot"].verdict is Verdict.REGRESSED
    assert script.records == [[], ["tpot"]], "and a record that has it"


def test_what_is_found_wrong_after_it_was_timed_is_recorded_as_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where it is found before: the order of the tests of a run decides nothing."""
    script = Script()
    benchmarks = benchmarks_of(script, monkeypatch)
    benchmarks.publish(CASE, WORKLOAD, "tpot", label="")
    benchmarks.now_wrong(Case(CPU, "transformers", "bloom-tiny", "fp32"))
    assert script.statuses == ["ok"], "another case's answers"
    script.wrong.add(CASE)
    for _ in range(2):  # by each test that fails
        benchmarks.now_wrong(CASE)
    assert script.statuses == ["ok", "accuracy_fail"]
    benchmarks.publish(CASE, Workload(4, 8, 4), "tpot", label="")
    assert script.statuses == ["ok", "accuracy_fail", "accuracy_fail"]


def test_what_the_gate_s_own_score_finds_wrong_is_recorded_as_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script()
    benchmarks = benchmarks_of(script, monkeypatch)
    benchmarks.publish(CASE, WORKLOAD, None, label="")
    judge = script.judge

    def scored(*given: Any) -> GateResult:
        script.wrong.add(CASE)
        return judge(*given)

    monkeypatch.setattr(script, "judge", scored)
    benchmarks.publish(CASE, Workload(4, 8, 4), "tpot", label="")
    assert script.statuses == ["ok", "accuracy_fail", "accuracy_fail"]


def test_a_measurement_whose_judging_breaks_is_recorded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the older number would go on being shown."""
    script = Script()
    script.broken = BadInput("the baseline is no baseline")
    benchmarks = benchmarks_of(script, monkeypatch)
    for _ in range(2):
        with pytest.raises(BadInput, match="no baseline"):
            benchmarks.publish(CASE, WORKLOAD, "tpot", label="")
    assert (script.records, script.statuses) == ([[]], ["ok"])


def test_a_profile_without_limits_has_no_such_item(tmp_path: Path) -> None:
    run = suite(tmp_path, "-m", CPU, "--benchmark", "--collect-only", "-q")
    assert "test_a_limit" not in run.stdout


def test_a_limit_that_is_none_is_a_usage_error(tmp_path: Path) -> None:
    profile = tmp_path / "promises.toml"
    profile.write_text(PROFILE.replace("tpot_ms", "tpot_msec"))
    run = suite(tmp_path, "-m", CPU, "--benchmark", f"--profile={profile}")
    assert run.returncode == 4
    assert (
        "[performance.limits]: unknown key 'tpot_msec', did you mean tpot_ms? (known are ttft_ms, tpot_ms"
        in run.stdout + run.stderr
    )
