"""Launches of now against those of a baseline or of another build: which count, what is compared, what they say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from genqual.cases import Case
from genqual.errors import BadInput
from genqual.gate import admission, sensitivity
from genqual.gate import decision as gate
from genqual.gate.baseline_file import Entry, Launch
from genqual.gate.batch_variance import HOURS, Series, apart
from genqual.gate.case_launches import CaseLaunches, Taken
from genqual.gate.decision import Decision, Settings
from genqual.gate.tolerances import Known
from genqual.gate.verdict import Verdict
from genqual.metrics.registry import is_exact, rule

_FASTEST: Final[dict[Series, Series]] = {"raw": "floor", "frozen": "frozen_floor"}
_MEDIAN_ONLY: Final = (
    "the median step is slower and the fastest are not, as others on this host, or a fault that comes and goes, make it"
)


def quiet(launches: Sequence[Launch], under_test: str) -> list[Launch]:
    """Those that may be compared by what nothing cancels: a baseline keeps launches of a disturbed host, too."""
    return [one for one in launches if under_test == "engine" or not admission.noisy(one.frozen, one.frozen_floor)]


def hours(case: Case, entry: Entry, under_test: str) -> list[str]:
    """Why the hours of this host say nothing of what is under test: its speed itself, which nothing cancels then."""
    name = entry.subject.metric
    if under_test == "engine" or is_exact(name):
        return []
    launches = quiet(entry.launches, under_test)
    most = HOURS * gate.settings_for(name, case.ranks, hook=entry.hook == "steps", tolerance=entry.tolerance).tolerance
    differ = max((apart(launches, of) for of in _level(launches)), default=0.0)
    if differ <= most:
        return []
    return [
        f"host speed drifts: between batches of its baseline it differs by {differ:.1%}, and a"
        f" verdict on the {under_test} needs {most:.1%} or less; judge it where nothing else runs"
    ]


def _level(launches: Sequence[Launch]) -> list[Series]:
    """What tells the speed of the host from its guests best, of what these launches have: their fastest steps."""
    fastest: list[Series] = ["floor", "frozen_floor"]
    medians: list[Series] = ["raw", "frozen"]
    found = [of for of in fastest if all(getattr(one, of) is not None for one in launches)]
    return found or [of for of in medians if all(getattr(one, of) is not None for one in launches)]


def _pairs(
    old: Sequence[Launch], new: Sequence[Launch], under_test: str
) -> dict[Series, tuple[list[float], list[float]]]:
    """What is compared, of then and now: the ratio to the reference step. Where that shares what is under test: both by
    themselves, their medians, which a fault that comes and goes moves, and their fastest, which no neighbour does.
    """
    names: list[Series] = ["z"] if under_test == "engine" else ["raw", "frozen", "floor", "frozen_floor"]
    found = {}
    for name in names:
        then, now = ([value for one in part if (value := getattr(one, name)) is not None] for part in (old, new))
        if len(then) == len(old) and len(now) == len(new):
            found[name] = (then, now)
    return found


def decided(
    old: Sequence[Launch],
    new: Sequence[Launch],
    settings: Settings,
    name: str,
    under_test: str,
    known: Known | None = None,
) -> Decision | None:
    """What these launches say of the metric `name`; None while they are too few. `known`: the drift to count with.

    Without it the launches of both sides share the occasion.
    """
    if len(old) < 2 or not new:
        return None
    if is_exact(name):
        then, now = ([one.z for one in part] for part in (old, new))
        return gate.decide_exact(then, now, slack=rule(name).slack, k_min=settings.k_min)
    pairs = _pairs(old, new, under_test)
    shared = replace(settings, alpha=settings.alpha / len(pairs))
    drift, occasions = (0.0, ()) if known is None else (known.drift.cautious, known.occasions)
    found = {
        name: gate.decide(then, now, shared, drift=drift, occasions=occasions) for name, (then, now) in pairs.items()
    }
    for median, fastest in _FASTEST.items():
        if fastest in found and found[median].verdict is Verdict.REGRESSED is not found[fastest].verdict:
            found[median] = replace(found[median], verdict=None, doubt=_MEDIAN_ONLY)
    return gate.worse(list(found.values()))


def blind_here(new: Sequence[Launch], slowdown: float) -> str:
    """What the self-test says of these launches; a metric that is measured once a launch has no blocks to test."""
    if not any(one.slowed for one in new):
        return ""
    return sensitivity.blind(
        (value for one in new for value in one.same), (value for one in new for value in one.slowed), slowdown
    )


def good_of(launches: CaseLaunches | None, name: str, under_test: str) -> list[Launch]:
    """The other build's launches that count. Raises BadInput when one failed: there is nothing to compare with."""
    taken = launches.taken if launches else []
    for one in taken:
        if one.failed:
            raise BadInput(f"--baseline-from: the other build cannot be measured: {one.failed}")
    return [one.metrics[name] for one in taken if name in one.metrics and not one.why_not(name, None, under_test)]


def change_word(name: str, change: float) -> str:
    """What a change in this direction is called: slower, more memory."""
    return rule(name).less_and_more[change > 0]


def probes_of(good: Sequence[Taken]) -> str:
    """The range of each probe over these launches, in words."""
    names = sorted({name for one in good for name in one.probes})
    return ", ".join(
        f"{name} {min(values):.3g} to {max(values):.3g}"
        for name in names
        if (values := [one.probes[name] for one in good if name in one.probes])
    )
