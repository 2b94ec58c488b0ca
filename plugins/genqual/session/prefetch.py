"""Which group comes next, so that it can be begun on an idle core while the present one is judged. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from genqual.cases import Case


@dataclass(frozen=True, slots=True)
class PlannedTest:
    """One test: the case it is of, and whether it is timed: all but conformance counts as timed."""

    case: Case
    timed: bool = False


def upcoming(steps: Sequence[PlannedTest]) -> list[Case | None]:
    """For each test the case whose group is begun before it: beside the second test of a case, the case after it.

    Beside the first its own group is starting. Nothing is begun beside what is timed, nor for a case that is timed
    later: how long its group took to load is measured, too.
    """
    timed = {step.case for step in steps if step.timed}
    found: list[Case | None] = [None] * len(steps)
    following: Case | None = None
    for at in range(len(steps) - 1, -1, -1):
        step = steps[at]
        first = at == 0 or steps[at - 1].case != step.case
        second = not first and (at == 1 or steps[at - 2].case != step.case)
        if not step.timed and second:
            found[at] = following
        if step.timed:
            following = None
        elif first:
            following = None if step.case in timed else step.case
    return found
