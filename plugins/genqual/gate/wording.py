"""What a verdict of the gate says to the person who reads it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from genqual.cases import Case, Workload
from genqual.gate.baseline_file import Entry
from genqual.gate.case_launches import Taken, evidence
from genqual.gate.comparison import change_word, probes_of
from genqual.gate.decision import Decision
from genqual.gate.stages import Stage
from genqual.gate.verdict import GateResult, Verdict
from genqual.metrics.compute import Measured
from genqual.ranks.client import Generator


@dataclass(frozen=True, slots=True)
class Asked:
    """One metric of one case that is to be judged. `entry` None: another build answers; `key` is the metric's.

    `tolerance` is what the run asks for, before what launches vary by widens it.
    """

    generator: Generator
    entry: Entry | None
    measured: Measured
    key: str
    workload: Workload
    tolerance: float

    @property
    def case(self) -> Case:
        return self.generator.case

    @property
    def name(self) -> str:
        return self.measured.name


def result_of(
    verdict: Verdict,
    why: str,
    decision: Decision | None,
    asked: Asked,
    stage: Stage,
    good: Sequence[Taken],
    command: Callable[[Case, Workload, str], str],
) -> GateResult:
    """The verdict with its numbers, in the direction of the metric, and with what else a person needs."""
    measured, settings = asked.measured, stage.settings
    notes = [one for one in (why, stage.note) if one]
    if decision is None:
        return GateResult(verdict, "; ".join(notes), asked.key, launches=len(good))
    change, interval = decision.change, decision.interval
    words = f"{abs(change):.1%} {change_word(measured.name, change)} ({interval[0]:+.1%} to {interval[1]:+.1%})"
    if measured.better == "higher":  # more time is less of it
        change = 1 / (1 + change) - 1
        interval = (1 / (1 + interval[1]) - 1, 1 / (1 + interval[0]) - 1)
    against = decision.log_within if verdict is Verdict.PASS else max(decision.log_slower, decision.log_faster)
    what = f"against a change of {settings.tolerance:.0%}" if verdict is Verdict.PASS else "against no change"
    said = [f"{words}, E = {evidence(against)} {what}, {decision.launches} launches, sigma {decision.sigma:.2%}"]
    if settings.tolerance > asked.tolerance:
        said.append(f"tolerance {settings.tolerance:.0%}: this baseline's, by what its launches vary")
    if settings.allowance:
        said.append(f"{settings.allowance:.1%} either way may be drift of the host and does not count")
    said += notes
    if verdict is Verdict.REGRESSED:
        said.append(f"probes: {probes_of(good)}")
        said.append(f"again: {command(asked.case, asked.workload, measured.name)}")
    return GateResult(
        verdict, "; ".join(said), asked.key, change, interval, float(evidence(against)), decision.launches
    )
