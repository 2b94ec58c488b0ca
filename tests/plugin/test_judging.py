"""How a run comes to a verdict: what is admitted, when it launches again, and what it says. No rank is started."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from genqual.cases import Case, Workload
from genqual.errors import BadInput
from genqual.gate import controller, launch_summary, pairing
from genqual.gate.baseline_builder import entry_of, merged, provenance_of
from genqual.gate.baseline_file import Entry, KnownDrift, Launch
from genqual.gate.case_launches import Taken, subject_of
from genqual.gate.controller import Judging, Question
from genqual.gate.launch_plan import LaunchJob, frozen_shape, frozen_source, gated_workloads
from genqual.gate.pairing import Pairing
from genqual.gate.verdict import Verdict
from genqual.metrics.compute import Measured
from tests.here import CPU

FOUR = ("raw", "frozen", "floor", "frozen_floor")
CASE = Case(CPU, "transformers", "llama-30m", "bf16")
SMALL, LARGE = Workload(1, 128, 32), Workload(4, 128, 32)
GATED = gated_workloads([Workload(1, 32, 32), SMALL, LARGE])
MEASURED = Measured("tpot", "s", 0.01, (0.01,), "median", "lower")
IDENTITY = {"torch": "2.13.0", "driver": None}
WHO = provenance_of(commit="488b0751", author="A. Person", reason="first baseline")


def launch(
    z: float, *, raw: float = -4.5, slowed: float = 0.05, seed: int = 0, fast: tuple[float, float] | None = None
) -> Launch:
    """`fast`: by how much the fastest steps and the fastest reference steps stay below their medians, logarithms."""
    rng = np.random.default_rng(abs(hash((z, seed))) % 2**32)
    noise = rng.normal(0.0, 0.01, 8)
    return Launch(
        z=z, raw=raw, frozen=raw - z, steps=140, p50=0.01, p90=0.011, p99=0.012, autocorrelation_steps=2.0,
        cpu_share=0.97, same=tuple(noise), slowed=tuple(slowed + noise[::-1]),
        floor=fast and raw - fast[0], frozen_floor=fast and raw - z - fast[1],
    )  # fmt: skip


def taken(z: float, metric: str = "tpot", **changes: Any) -> Taken:
    probes = {"cpu_share": 0.97, "frozen_log_s": -5.3, "suspended_s": 0.0} | changes.pop("probes", {})
    more = changes.pop("launch", {})
    return Taken({metric: launch(z, **more)}, probes, wall_s=5.0, **changes)


RANKS = [SimpleNamespace(parameters=31_000_000)]
STEADY = KnownDrift(sd=0.0, freedom=10.0, occasions=tuple(range(12)))
"""A class whose occasions are all alike: then a baseline's file says all that there is to say."""

OLD = [0.8 + 0.01 * x for x in (-1.2, -0.9, -0.5, -0.3, -0.1, 0.0, 0.1, 0.2, 0.4, 0.6, 0.9, 1.3)]
NEW = [0.802, 0.797, 0.801, 0.799, 0.8, 0.803] * 2


def entry(metric: str = "tpot", **changes: Any) -> Entry:
    subject = subject_of(CASE, ["w" * 64], GATED[metric], metric)
    job = LaunchJob.of([metric], GATED, frozen_shape(31_000_000, "bf16"), slowdown=0.05, ranks=1)
    every = [taken(z, metric) for z in OLD]
    made = entry_of(
        subject,
        [one.metrics[metric] for one in every],
        every,
        job,
        tolerance=0.05,
        identity=IDENTITY,
        provenance=WHO,
        old=None,
        drift=STEADY,
    )
    return made.model_copy(update=changes).sealed()


@dataclass
class Fake:
    """Launches that were written down beforehand."""

    generator: Any
    job: LaunchJob
    script: Any = ()
    taken: list[Taken] = field(default_factory=list)
    forecast_s: float = 5.0

    def extend(self) -> Taken:
        self.taken.append(self.script[len(self.taken)])
        return self.taken[-1]


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that judges one metric against `entries` with launches of a script."""
    identity = SimpleNamespace(class_id="a-class", facts={})
    monkeypatch.setattr(controller, "devices", lambda: {CPU: SimpleNamespace(identity=lambda: identity)})
    monkeypatch.setattr(controller, "identity_here", lambda device: dict(IDENTITY))
    said: list[str] = []

    def judge(
        script: list[Taken],
        *entries: Entry,
        measured: Measured = MEASURED,
        workload: Workload = SMALL,
        accuracy: str = "",
        other: list[Taken] | None = None,
        then: Sequence[list[Taken]] = (),
        pairs: Pairing | None = None,
        keep: Any = None,
        **question: Any,
    ) -> Any:
        path = tmp_path / "a-class.json"
        path.unlink(missing_ok=True)
        if entries:
            path.write_text(merged(None, "a-class", {}, {one.subject.key: one for one in entries}))
        said.clear()
        scripts = iter([script, *(then or [other or []])])
        monkeypatch.setattr(controller, "CaseLaunches", lambda generator, job: Fake(generator, job, next(scripts)))
        asked = Question({CASE: frozenset({measured.name})}, GATED, tmp_path, **question)
        generator = SimpleNamespace(case=CASE, loaded=RANKS)
        run = Judging(
            asked,
            said.append,
            lambda case: accuracy,
            (lambda case: generator) if other is not None else None,  # type: ignore[arg-type, return-value]
            lambda case, workload, metric: f"pytest -k {metric}",
            pairs,
            *([keep] if keep else []),
        )
        return run.judge(generator, ["w" * 64], workload, measured)  # type: ignore[arg-type]

    judge.said = said  # type: ignore[attr-defined]
    return judge


def test_unchanged_launches_pass_after_a_few(gate: Any) -> None:
    found = gate([taken(z) for z in NEW], entry())
    assert found.verdict is Verdict.PASS
    assert found.launches == 3
    assert abs(found.estimate) < 0.01
    assert gate.said[0].startswith(f"gate: {CPU}-transformers-llama-30m-bf16 tpot: 3 to 12 launches of about 5 s each")
    assert gate.said[1] == "launch 1 of at most 12"
    assert gate.said[2].startswith("launch 2 of at most 12, E=")


def test_slower_launches_fail_with_all_that_a_person_needs(gate: Any) -> None:
    found = gate([taken(z + math.log(1.06)) for z in NEW], entry())
    assert found.verdict is Verdict.REGRESSED
    assert found.estimate == pytest.approx(0.06, abs=0.01)
    for words in (
        "6.0% slower (+",
        "E = ",
        "against no change",
        "launches, sigma",
        "cpu_share 0.97",
        "again: pytest -k",
    ):
        assert words in found.reason, words


@pytest.mark.parametrize(
    ("slower", "verdict", "own"),
    [(0.0, "pass", "pass"), (0.04, "regressed", "pass"), (0.12, "regressed", "regressed")],
)
def test_a_baseline_of_an_uneven_host_is_judged_by_its_own_tolerance(
    gate: Any, slower: float, verdict: str, own: str
) -> None:
    """The launches' deliberate 5 % is found as ever: what is asked of the self-test is what was put in."""
    script = [taken(z + math.log1p(slower)) for z in NEW]
    assert gate(script, entry()).verdict.value == verdict
    found = gate(script, entry(tolerance=0.12))
    assert found.verdict.value == own
    assert "tolerance 12%: this baseline's, by what its launches vary" in found.reason
    assert ("against a change of 12%" in found.reason) is (own == "pass")


def test_more_tokens_a_second_is_an_improvement(gate: Any) -> None:
    measured = Measured("tokens_per_s", "1/s", 90.0, (90.0,), "median", "higher")
    script = [taken(z + math.log(0.9), "tokens_per_s") for z in NEW]
    found = gate(script, entry("tokens_per_s"), measured=measured, workload=LARGE)
    assert found.verdict is Verdict.IMPROVED
    assert found.estimate == pytest.approx(1 / 0.9 - 1, abs=0.02)
    assert found.interval[0] < found.estimate < found.interval[1]


def test_what_no_launch_can_measure_is_said_after_the_first(gate: Any) -> None:
    blind = Taken({}, {}, unmeasured={"load_s": "model m: no snapshot in the local hub cache"})
    measured = Measured("load_s", "s", 3.0, (3.0,), "single", "lower")
    found = gate([blind], entry("load_s"), measured=measured, workload=GATED["load_s"])
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "rejected: model m: no snapshot" in found.reason


def test_nothing_to_compare_with_starts_nothing(gate: Any) -> None:
    assert gate([], workload=SMALL).verdict is Verdict.NO_BASELINE
    assert gate([], entry("ttft")).verdict is Verdict.NO_BASELINE


@pytest.mark.parametrize(("name", "workload"), [("tpot", LARGE), ("tokens_per_s", SMALL), ("e2e", SMALL)])
def test_what_no_gate_judges_is_recorded(gate: Any, name: str, workload: Workload) -> None:
    found = gate([], entry(), measured=Measured(name, "s", 1.0, (1.0,), "median", "lower"), workload=workload)
    assert found.verdict is Verdict.RECORDED


@pytest.mark.parametrize(
    ("changes", "question", "said"),
    [
        (
            {"identity": IDENTITY | {"torch": "2.12.0"}},
            {},
            "torch was 2.12.0 and is 2.13.0 (judge it with --under-test",
        ),
        (
            {"identity": IDENTITY | {"driver": "535"}},
            {},
            "driver was 535 and is None (judge it with --under-test driver)",
        ),
        ({"frozen_source": "0" * 64}, {}, "the reference step's source is not the baseline's"),
        ({}, {"accuracy": "it is wrong"}, "it is wrong"),
    ],
)
def test_a_run_that_is_not_admitted_starts_nothing(
    gate: Any, changes: dict[str, Any], question: dict[str, Any], said: str
) -> None:
    found = gate([], entry(**changes), **question)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert said in found.reason


def test_a_changed_driver_is_judged_when_the_driver_is_under_test(gate: Any) -> None:
    changed = entry(identity=IDENTITY | {"driver": "535"})
    assert gate([taken(z) for z in NEW], changed, under_test="driver").verdict is not Verdict.NO_BASELINE
    slow = [taken(z, launch={"raw": -4.5 + math.log(1.08)}) for z in NEW]
    found = gate(slow, changed, under_test="driver")
    assert found.verdict is Verdict.REGRESSED
    assert gate(slow, entry()).verdict is Verdict.PASS  # under `engine` candidate and reference step cancel


NOISE = (-1.1, 0.9, -0.4, 1.2, 0.1, -0.8, 0.5, -0.2, 1.0, -1.2, 0.3, -0.6)


def on_a_shared_host(slower: float, *, medians: float = 0.0, spread: float = 0.0) -> list[Taken]:
    """Twelve launches: the fastest steps are slower by `slower` and hardly vary, medians by `medians` besides and do.

    `spread` is added to what lies between medians and fastest.
    """
    made = []
    for index, noise in enumerate(NOISE):
        fastest = -4.5 + slower + 0.001 * (index % 3)
        above = 0.035 + 0.028 * noise + medians + spread
        made.append(taken(0.8, launch={"raw": fastest + above, "fast": (above, above)}))
    return made


def entry_on_a_shared_host(spread: float = 0.0) -> Entry:
    made = tuple(one.metrics["tpot"] for one in on_a_shared_host(0.0, spread=spread))
    return entry().model_copy(update={"launches": made}).sealed()


def test_a_slower_node_is_found_by_its_fastest_steps_where_medians_vary_too_much(gate: Any) -> None:
    slow = on_a_shared_host(math.log(1.035))
    found = gate(slow, entry_on_a_shared_host(), under_test="node")
    assert found.verdict is Verdict.REGRESSED
    assert found.estimate == pytest.approx(0.035, abs=0.005)
    without = {"floor": None, "frozen_floor": None}
    medians = [Taken({"tpot": one.metrics["tpot"].model_copy(update=without)}, one.probes) for one in slow]
    assert gate(medians, entry_on_a_shared_host(), under_test="node").verdict is Verdict.INCONCLUSIVE
    assert gate(slow, entry_on_a_shared_host()).verdict is Verdict.PASS  # under `engine` it cancels


def test_a_node_that_is_slow_now_and_then_does_not_pass_for_its_fastest_steps(gate: Any) -> None:
    old = entry_on_a_shared_host()
    assert gate(on_a_shared_host(0.0, medians=0.03), old, under_test="node").verdict is not Verdict.PASS
    assert gate(on_a_shared_host(0.0, medians=0.2), old, under_test="node").verdict is Verdict.INCONCLUSIVE


def steady(medians: float, slower: float = 0.0) -> list[Taken]:
    """Twelve launches that hardly vary: their medians lie 1 % above the fastest and `medians` besides."""
    above = 0.01 + medians
    return [
        taken(0.8, launch={"raw": -4.5 + slower + above + 0.001 * (index % 3), "fast": (above, above)})
        for index in range(12)
    ]


def test_a_node_whose_medians_alone_are_slower_is_not_regressed(gate: Any) -> None:
    """A guest of one hour slows half of the steps and never all: no launch of another hour was there to know it by."""
    made = tuple(one.metrics["tpot"] for one in steady(0.0))
    old = entry().model_copy(update={"launches": made}).sealed()
    assert gate(steady(0.0), old, under_test="node").verdict is Verdict.PASS
    found = gate(steady(0.04), old, under_test="node")
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "launches: the median step is slower and the fastest are not" in found.reason
    assert gate(steady(0.04, slower=0.04), old, under_test="node").verdict is Verdict.REGRESSED


def test_half_of_the_tolerance_is_left_to_the_hour_of_a_node(gate: Any) -> None:
    made = tuple(one.metrics["tpot"] for one in steady(0.0))
    old = entry().model_copy(update={"launches": made}).sealed()
    found = gate(steady(0.0, slower=math.log(1.03)), old, under_test="node")
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "2.5% either way may be drift of the host and does not count" in found.reason
    found = gate(steady(0.0, slower=math.log(1.05)), old, under_test="node")
    assert (found.verdict, "may be drift of the host" in found.reason) == (Verdict.REGRESSED, True)
    assert "may be drift of the host" not in gate(steady(0.0), old).reason


@pytest.mark.parametrize(("differ", "judged"), [(0.0, True), (0.004, True), (0.02, False)])
def test_a_node_is_not_judged_where_hours_differ(gate: Any, differ: float, judged: bool) -> None:
    made = [one.metrics["tpot"] for one in steady(0.0)]
    moved = [
        one.model_copy(update={"batch": i // 4, **{of: getattr(one, of) + i // 4 * differ for of in FOUR}})
        for i, one in enumerate(made)
    ]
    old = entry().model_copy(update={"launches": tuple(moved)}).sealed()
    middle = steady(0.0, slower=differ)
    found = gate(middle, old, under_test="node")
    assert (found.verdict is Verdict.PASS) is judged
    assert ("host speed drifts: between batches of its baseline it differs" in found.reason) is not judged
    assert gate(middle, old).verdict is Verdict.PASS  # under `engine` they cancel
    bare = [one.model_copy(update={"floor": None, "frozen_floor": None}) for one in moved]  # as load time has it
    found = gate(middle, entry().model_copy(update={"launches": tuple(bare)}).sealed(), under_test="node")
    assert ("host speed drifts" in found.reason) is not judged


def test_a_host_that_is_not_quiet_judges_no_node(gate: Any) -> None:
    quiet, loud = on_a_shared_host(0.0), on_a_shared_host(0.0, spread=0.1)
    found = gate(loud, entry_on_a_shared_host(), under_test="node")
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "3 of 3 launches: noisy host: half of the reference steps took " in found.reason
    assert gate(loud, entry_on_a_shared_host()).verdict is Verdict.PASS  # the ratio is as good there
    found = gate(quiet, entry_on_a_shared_host(spread=0.1), under_test="node")
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "the host was noisy when the baseline was made" in found.reason
    assert gate(quiet, entry_on_a_shared_host(spread=0.1)).verdict is Verdict.PASS


@pytest.mark.parametrize("alone", ["floor", "frozen_floor"])
def test_a_node_on_which_one_of_the_two_is_slower_is_found(gate: Any, alone: str) -> None:
    slow = []
    for one in on_a_shared_host(0.0):
        kept = one.metrics["tpot"]
        floor = getattr(kept, alone) + math.log(1.035)
        slow.append(Taken({"tpot": kept.model_copy(update={alone: floor})}, one.probes))
    assert gate(slow, entry_on_a_shared_host(), under_test="node").verdict is Verdict.REGRESSED


def test_xdist_on_the_device_is_not_admitted(gate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", "2")
    found = gate([], entry())
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "2 xdist workers share this device" in found.reason


def test_a_launch_that_dies_ends_it_with_the_cause(gate: Any) -> None:
    found = gate([taken(NEW[0]), Taken({}, {}, failed="launch 2 died: rank 0 was killed by SIGKILL")], entry())
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "rank 0 was killed by SIGKILL" in found.reason


def test_disturbed_launches_are_left_out_and_named(gate: Any) -> None:
    bad = {"cpu_share": 0.3}
    found = gate([taken(9.0, probes=bad), *(taken(z) for z in NEW)], entry())
    assert found.verdict is Verdict.PASS
    assert found.launches == 3
    found = gate([taken(0.8, probes=bad)] * 3, entry())
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "3 of 3 launches: cpu_share 0.3 is not in" in found.reason


def test_a_suspended_host_is_named(gate: Any) -> None:
    found = gate([taken(0.8, probes={"suspended_s": 60.0})] * 3, entry())
    assert "the host was suspended for 60 s" in found.reason


def test_a_gate_that_is_blind_says_nothing_else(gate: Any) -> None:
    found = gate([taken(z, launch={"slowed": 0.0}) for z in NEW], entry())
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "the gate cannot detect 5% on this host" in found.reason
    assert found.launches == 12


def test_a_spent_budget_is_inconclusive(gate: Any) -> None:
    found = gate([taken(z) for z in NEW], entry(), budget_s=1e-9)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "the gate's budget of 0 s is spent after" in found.reason


def test_noise_ends_after_the_last_launch(gate: Any) -> None:
    found = gate([taken(0.8 + 0.3 * (-1) ** index) for index in range(12)], entry())
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "inconclusive after 12 launches" in found.reason


def test_another_build_answers_in_place_of_a_file(gate: Any) -> None:
    slow = [taken(z + math.log(1.08)) for z in NEW]
    assert gate(slow, other=[taken(z) for z in NEW]).verdict is Verdict.REGRESSED
    assert gate([taken(z) for z in NEW], other=[taken(z + 0.001) for z in NEW]).verdict is Verdict.PASS


def test_nothing_is_left_to_the_hour_where_the_other_build_ran_in_it(gate: Any) -> None:
    found = gate(steady(0.0, slower=math.log(1.03)), other=steady(0.0), under_test="kernels")
    assert (found.verdict, "may be drift of the host" in found.reason) == (Verdict.REGRESSED, False)


def test_a_metric_that_no_mark_announced_is_launched_for_all_the_same(gate: Any) -> None:
    """Its section is put into later launches; without it the gate would launch for ever."""
    lists = Judging(Question({}, GATED, Path()), print, lambda case: "")
    kept: dict[Case, Any] = {}
    generator: Any = SimpleNamespace(case=CASE, loaded=[SimpleNamespace(parameters=31_000_000)])
    assert set(lists._launches(kept, generator, None, "tpot").job.workloads) == {"decode"}
    assert set(lists._launches(kept, generator, None, "ttft").job.workloads) == {"decode", "prefill"}
    assert len(kept) == 1


def test_alpha_is_split_over_what_is_asked_and_can_be_noise() -> None:
    asked = {CASE: frozenset({"tpot", "ttft", "peak_memory", "e2e"})}
    assert Question(asked, GATED, Path()).metrics == 2
    assert Question({}, GATED, Path()).metrics == 1


def test_only_the_metrics_that_the_run_chose_are_judged(gate: Any) -> None:
    found = gate([taken(0.0)], entry(), judges=frozenset({"ttft", "load_s"}))
    assert (found.verdict, found.launches) == (Verdict.RECORDED, 0)
    assert found.reason == "tpot is recorded: this run judges ttft, load_s (--gate-metrics)"


def test_the_gate_judges_latency_small_and_throughput_large() -> None:
    assert GATED["tpot"] == GATED["ttft"] == SMALL
    assert GATED["tokens_per_s"] == GATED["peak_memory"] == LARGE
    assert len(frozen_source()) == 64


def held(mebibytes: float) -> Taken:
    kept = launch_summary.single(mebibytes * 2**20, None)
    return Taken({"peak_memory": kept}, {"cpu_share": 0.97, "suspended_s": 0.0}, wall_s=5.0)


@pytest.mark.parametrize("under_test", ["engine", "node"])
@pytest.mark.parametrize(
    ("least", "verdict", "word"),
    [(101.0, Verdict.PASS, ""), (105.5, Verdict.PASS, "more memory"), (106.5, Verdict.REGRESSED, "more memory"),
     (94.0, Verdict.IMPROVED, "less memory")],
)  # fmt: skip
def test_peak_memory_may_grow_by_an_allocators_slack(
    gate: Any, least: float, verdict: Verdict, word: str, under_test: str
) -> None:
    """Baselines of 100 to 104: what is least of now is held against 106.08, what is most against 98."""
    old = entry("peak_memory", launches=tuple(held(100.0 + i % 5).metrics["peak_memory"] for i in range(12)))
    asked = Measured("peak_memory", "B", 1e8, (1e8,), "single", "lower")
    now = [held(least + more) for more in (1.0, 0.0, 2.0)]
    found = gate(now, old, measured=asked, workload=LARGE, under_test=under_test)
    assert (found.verdict, found.launches) == (verdict, 3)
    assert word in found.reason


def drifting(**changes: Any) -> Entry:
    """A baseline of one occasion of a class that drifts by 1 %, which ten further occasions told."""
    return entry(drift=KnownDrift(sd=0.01, freedom=16.0, occasions=(0,)), packages={"engine": "1"}, **changes)


@pytest.fixture
def pair(gate: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """As `gate`, with a build to pair with: scripts of stage one, then of stage two, today's and the other build's."""

    def judge(first: list[Taken], today: list[Taken], other: list[Taken], *entries: Entry, **changes: Any) -> Any:
        here, unknown = changes.pop("engine", "1"), changes.pop("unknown", "")
        monkeypatch.setattr(pairing, "packages_of", lambda case: {"engine": here})
        monkeypatch.setattr(pairing, "unknown_commit", lambda commit: unknown)
        made = changes.pop("generator", lambda case, entry: SimpleNamespace(case=CASE, loaded=RANKS))
        return gate(first, *(entries or (drifting(),)), then=[today, other], pairs=Pairing(made), **changes)

    return judge


def moved(share: float) -> list[Taken]:
    return [taken(z + math.log1p(share)) for z in NEW]


@pytest.mark.parametrize(
    ("occasion", "slower", "verdict"),
    [
        (0.0, 0.0, "pass"),
        (0.03, 0.0, "pass"),
        (-0.03, 0.0, "pass"),
        (0.0, 0.06, "regressed"),
        (-0.03, 0.06, "regressed"),
    ],
)
def test_what_the_file_leaves_open_is_decided_by_pairs(
    pair: Any, gate: Any, occasion: float, slower: float, verdict: str
) -> None:
    """The host moved by `occasion`, in both builds; the code by `slower`, in today's alone."""
    today = moved((1 + occasion) * (1 + slower) - 1)
    found = pair(today, today, moved(occasion))
    assert found.verdict.value == verdict
    assert "paired with 488b0751 in this run, because the file left it open at" in found.reason
    assert "(drift 1.0%)" in found.reason
    said = [one for one in gate.said if one.startswith("gate: ")]
    assert said[0].endswith("tpot: 3 to 5 launches of about 5 s each: 15 to 25 s")
    assert "3 to 12 launches of about 5 s each: 15 to 60 s, each beside one of the other build; paired with" in said[1]


def test_faster_code_is_told_from_a_faster_hour_by_pairs(pair: Any) -> None:
    """5 % faster is far from 5 % slower, which is all that PASS needs; stage one leaves it open."""
    found = pair(moved(-0.048), moved(-0.048), moved(0.0))
    assert found.verdict is Verdict.IMPROVED
    assert "paired with" in found.reason
    found = pair(moved(-0.03), moved(-0.03), moved(-0.03))
    assert found.verdict is Verdict.PASS, "the hour's"
    steady = entry(packages={"engine": "1"})
    nobody: list[Taken] = []
    assert pair(moved(-0.048), nobody, nobody, steady).verdict is Verdict.IMPROVED, "the file tells, without drift"


def test_what_the_file_passes_passes_where_pairs_end_undecided(pair: Any) -> None:
    noise = [taken(0.8 + 0.3 * (-1) ** index) for index in range(12)]
    found = pair(moved(-0.04), noise, noise)
    assert (found.verdict, found.launches) == (Verdict.PASS, 5)
    assert "pairs: " in found.reason
    assert "inconclusive after 12 launches" in found.reason
    assert pair(moved(0.03), noise, noise).verdict is Verdict.INCONCLUSIVE, "the file did not pass it"


def test_a_faster_hour_has_all_its_launches_before_it_passes_by_the_file_alone(
    gate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No build to pair with: nothing but more launches of now can show IMPROVED."""
    found = gate(moved(-0.08), drifting())
    assert (found.verdict, found.launches) == (Verdict.PASS, 12), "the drift of this class explains it"
    assert gate(moved(-0.02), drifting()).launches == 3
    clock = iter(range(0, 100_000, 5))
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
    found = gate(moved(-0.08), drifting(), budget_s=30.0)
    assert found.verdict is Verdict.PASS, "the evidence for PASS suffices; the budget cut only the search for more"
    assert 3 <= found.launches < 12


def test_a_run_may_ask_for_a_smaller_slowdown_than_the_standard(pair: Any) -> None:
    """3 % in turns, where launches vary by 0.5 %; 5 % would be between half of the tolerance and all of it."""
    quiet = drifting(launches=tuple(launch(0.8 + 0.25 * (z - 0.8)) for z in OLD))
    assert pair(moved(0.03), moved(0.03), moved(0.0), quiet, tolerance=0.03).verdict is Verdict.REGRESSED
    found = pair(moved(0.0), moved(0.0), moved(0.0), quiet, tolerance=0.03)
    assert found.verdict is Verdict.PASS
    assert "against a change of 3%" in found.reason
    noisy = pair(moved(0.0), moved(0.0), moved(0.0), tolerance=0.01)
    assert "against a change of 4%" in noisy.reason, "launches of this baseline vary by 0.7 %"
    assert "tolerance 4%: this baseline's, by what its launches vary" in noisy.reason


def test_what_a_run_asks_for_is_of_steps_alone() -> None:
    asked = Question({}, GATED, Path(), tolerance=0.03)
    assert asked.settings("tpot", 1).tolerance == asked.settings("ttft", 2).tolerance == 0.03
    assert asked.settings("load_s", 1).tolerance == Question({}, GATED, Path()).settings("load_s", 1).tolerance == 0.3
    assert asked.settings("peak_memory", 1) == Question({}, GATED, Path()).settings("peak_memory", 1)


def test_what_drift_cannot_explain_is_decided_by_the_file(pair: Any) -> None:
    nobody: list[Taken] = []
    found = pair(moved(0.25), nobody, nobody)
    assert (found.verdict, "paired" in found.reason) == (Verdict.REGRESSED, False)
    steady = entry(packages={"engine": "1"})
    assert pair(moved(0.0), nobody, nobody, steady).verdict is Verdict.PASS
    assert pair(moved(0.06), nobody, nobody, steady).verdict is Verdict.REGRESSED


def test_the_former_rule_would_have_called_the_hour_a_regression(pair: Any, gate: Any) -> None:
    """3 % of drift and unchanged code: without a word of drift REGRESSED; with it alone PASS, at what it can hold."""
    assert gate(moved(0.03), entry()).verdict is Verdict.REGRESSED
    found = gate(moved(0.03), drifting())
    assert (found.verdict, found.launches) == (Verdict.PASS, 3)
    assert "drift between occasions is 1.0%, so the file alone finds 16% and pairing with its build 5%" in found.reason
    assert "not paired: --no-pair" in found.reason
    assert gate(moved(0.20), drifting()).verdict is Verdict.REGRESSED


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"engine": "2"}, "both builds would have what changed since the baseline (engine was 1 and is 2)"),
        ({"unknown": "there is no such commit"}, "not paired: there is no such commit"),
    ],
)
def test_where_a_pair_says_nothing_stage_one_stands_and_it_is_said(
    pair: Any, changes: dict[str, Any], said: str
) -> None:
    found = pair(moved(0.03), [], [], **changes)
    assert found.verdict is Verdict.PASS
    assert said in found.reason


def test_an_older_baseline_names_no_packages_and_is_not_paired(pair: Any) -> None:
    older = drifting().model_copy(update={"packages": None}).sealed()
    found = pair(moved(0.03), [], [], older)
    assert "does not name the versions of its engine's packages (`genqual rebase` records them)" in found.reason


def test_a_build_that_cannot_be_made_or_measured_leaves_stage_one(pair: Any) -> None:
    def broken(case: Case, entry: Entry) -> Any:
        raise BadInput("its engine needs another Python")

    found = pair(moved(0.03), [], [], generator=broken)
    assert found.verdict is Verdict.PASS
    assert "not paired: 488b0751 cannot be measured here: its engine needs another Python" in found.reason
    dead = [Taken({}, {}, failed="launch 1 died: rank 0 was killed by SIGKILL")]
    found = pair(moved(0.03), moved(0.03), dead)
    assert found.verdict is Verdict.PASS
    assert "rank 0 was killed by SIGKILL" in found.reason


def test_each_stage_has_its_part_of_the_budget(pair: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Launches of 10 s on the clock: stage one ends when half of the budget is spent, stage two with all of it."""
    clock = iter(float(10 * index) for index in range(99))
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    found = pair(moved(0.03), moved(0.03), moved(0.03), budget_s=60.0)
    assert found.verdict is Verdict.PASS
    assert "paired" in found.reason
    clock = iter(float(10 * index) for index in range(99))
    found = pair(moved(0.03), moved(0.03), moved(0.03), budget_s=50.0)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "the gate's budget of 50 s is spent after 2 launches" in found.reason


def test_nothing_to_compare_with_names_the_command_and_its_minutes(gate: Any) -> None:
    found = gate([])
    assert found.verdict is Verdict.NO_BASELINE
    assert found.reason.endswith("`genqual rebase --quick` makes one in about 1 minutes")


def test_a_former_control_is_named_with_the_command_that_measures_anew(gate: Any) -> None:
    assert "of a former control; `genqual rebase` measures anew" in gate([], entry(frozen_source="0" * 64)).reason


def test_every_launch_of_todays_build_is_kept(gate: Any) -> None:
    kept: list[Taken] = []
    gate(moved(0.0), entry(), keep=lambda generator, job, taken: kept.append(taken))
    assert len(kept) == 3
