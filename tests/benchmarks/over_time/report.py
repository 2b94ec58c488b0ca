"""What the record of launches over time shows; measures nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.over_time.drifting import between, by_occasion, explained, mean_change, steadier, with_prior
from tests.benchmarks.ratios import table

Launch = dict[str, Any]
Occasion = tuple[dict[str, Any], list[Launch]]

RATIOS: Final = ("frozen", "twin", "stream", "gather", "gemm", "dispatch", "python", "sha")


def log_ratio(launch: Launch) -> float:
    """The gate's own number: median over plain steps of log(candidate / reference steps before and after)."""
    kept = launch["gate"]
    plain = np.array(kept["slowed"]) == 0
    clock = np.sqrt(np.array(kept["frozen_before"], float) * np.array(kept["frozen_after"], float))
    return float(np.median(np.log(np.array(kept["candidate"], float) / clock)[plain]))


def log_latency(launch: Launch) -> float:
    """Median log seconds of the candidate's plain steps, with nothing to cancel the host."""
    kept = launch["gate"]
    return float(np.median(np.log(np.array(kept["candidate"], float) * 1e-7)[np.array(kept["slowed"]) == 0]))


def log_against(launch: Launch, control: str) -> float:
    """Median log(candidate / one control) of the part in which all controls run."""
    parts = launch["controls"]
    return float(np.median(np.log(np.array(parts["candidate"], float) / np.array(parts[control], float))))


def statistics(launch: Launch) -> dict[str, float]:
    """Every number of a launch that a rule might be built on, in logs."""
    return {
        "latency": log_latency(launch),
        "gate": log_ratio(launch),
        **{f"/ {name}": log_against(launch, name) for name in RATIOS if name in launch["controls"]},
        **{name: float(np.median(np.log(np.array(launch["controls"][name], float) * 1e-7))) for name in RATIOS},
    }


def line(launch: Launch) -> str:
    """One launch, for whoever waits."""
    step = float(np.median(launch["gate"]["candidate"])) * 1e-4
    return (
        f"{launch['dtype']} {launch['arm']}: {step:.2f} ms a step, log ratio {log_ratio(launch):+.4f}, "
        f"{launch['wall_s']:.0f} s"
    )


def spread(groups: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    """Standard deviation within occasions, and between them with the within part taken away; nan where unknown.

    `groups`: one array of launches an occasion. Between is the random effect of a one-way analysis of variance.
    """
    kept = [group for group in groups if len(group) > 1]
    count = sum(len(group) for group in kept)
    if not kept or count <= len(kept):
        return float("nan"), float("nan")
    within = sum(((group - group.mean()) ** 2).sum() for group in kept) / (count - len(kept))
    if len(kept) < 2:
        return float(np.sqrt(within)), float("nan")
    middle = np.concatenate(kept).mean()
    between = sum(len(group) * (group.mean() - middle) ** 2 for group in kept) / (len(kept) - 1)
    size = (count - sum(len(group) ** 2 for group in kept) / count) / (len(kept) - 1)
    return float(np.sqrt(within)), float(np.sqrt(max(0.0, (between - within) / size)))


def text(occasions: Iterable[Occasion]) -> str:
    """Tables: spread within and between occasions by class, which control cancels best, and what each arm changes."""
    by_class: dict[tuple[str, str], list[Occasion]] = defaultdict(list)
    for head, launches in occasions:
        for dtype in sorted({launch["dtype"] for launch in launches}):
            chosen = [launch for launch in launches if launch["dtype"] == dtype]
            by_class[(head["class"], dtype)].append((head, chosen))
    parts = []
    for (name, dtype), found in sorted(by_class.items()):
        hosts, boots = len({head["host"] for head, _ in found}), len({head["boot"] for head, _ in found})
        groups = by_occasion(launch for _, launches in found for launch in launches)
        count = sum(len(group) for group in groups)
        plain = [group for each in groups if (group := [statistics(one) for one in each if one["arm"] == "same"])]
        parts.append(
            f"{name}, {dtype}: {count} launches, {len(groups)} occasions ({len(found)} files), {hosts} hosts,"
            f" {boots} boots\n\n{_spreads(plain)}\n\n{_drift(plain)}\n\n{_causes(plain)}\n\n{_arms(groups)}"
        )
    return "\n\n".join(parts) or "the record is empty"


def _spreads(plain: Sequence[Sequence[dict[str, float]]]) -> str:
    rows = [["unchanged arm, %", "within", "between occasions (95 %)", "means vary by", "over that of / frozen (95 %)"]]
    for name in plain[0][0] if plain else ():
        groups = [np.array([one[name] for one in group]) for group in plain]
        means, frozen = (
            np.array([np.mean([one[of] for one in group]) for group in plain]) for of in (name, "/ frozen")
        )
        within, sd = spread(groups)
        some, ratio = ("one occasion", "") if np.isnan(sd) else (_between(groups), "1")
        if name in RATIOS:  # the control by itself cancels nothing
            ratio = ""
        elif len(means) > 2 and name != "/ frozen":
            share, (low, high) = steadier(means, frozen)
            ratio = f"{share:.2f} ({low:.2f} to {high:.2f})"
        vary = f"{100 * means.std(ddof=1):.2f}" if len(means) > 1 else ""
        rows.append([name, f"{100 * within:.2f}", some, vary, ratio])
    return table(rows)


def _between(groups: Sequence[NDArray[np.float64]]) -> str:
    sd, (low, high) = between(groups)
    return f"{100 * sd:.2f} ({100 * low:.2f} to {100 * high:.2f})"


def _drift(plain: Sequence[Sequence[dict[str, float]]]) -> str:
    groups = [np.array([one["gate"] for one in group]) for group in plain]
    if len(groups) < 2:
        return "drift: of one occasion nothing can be said"
    likely, cautious = with_prior(groups)
    return f"with the prior, drift of the gate's number is {likely:.2%}, and evidence counts with {cautious:.2%}"


def _causes(plain: Sequence[Sequence[dict[str, float]]]) -> str:
    """Whether the gate's number is higher where a control by itself is slower: then that, or its cause, does it."""
    rows = [["the gate's mean of an occasion, by a control's", "correlation", "slope", "left of its deviation"]]
    for name in RATIOS if len(plain) > 3 else ():
        ours, its = (np.array([np.mean([one[of] for one in group]) for group in plain]) for of in ("gate", name))
        rows.append([name, *(f"{value:+.2f}" for value in explained(ours, its))])
    return table(rows)


def _arms(groups: Sequence[Sequence[Launch]]) -> str:
    names = ("gate", "/ twin", "latency")
    rows = [
        ["against the unchanged arm, %, mean of occasions (95 %)", "launches", "occasions", *names, "gate varies by"]
    ]
    everything = [log_ratio(launch) for each in groups for launch in each if launch["arm"] == "same"]
    for arm in sorted({launch["arm"] for each in groups for launch in each} - {"same"}):
        changes: dict[str, list[float]] = defaultdict(list)
        count = 0
        for each in groups:
            plain, own = ([statistics(launch) for launch in each if launch["arm"] == which] for which in ("same", arm))
            if plain and own:
                count += len(own)
                for name in names:
                    changes[name].append(float(np.mean([x[name] for x in own]) - np.mean([x[name] for x in plain])))
        if not count:
            continue
        cells = []
        for values in changes.values():
            mean, half = mean_change(np.array(values))
            cells.append(f"{100 * mean:+.2f}" + ("" if np.isnan(half) else f" +- {100 * half:.2f}"))
        first = [log_ratio(own[0]) for each in groups if (own := [one for one in each if one["arm"] == arm])]
        vary = [f"{100 * np.std(values, ddof=1):.2f}" if len(values) > 1 else "?" for values in (first, everything)]
        rows.append([arm, str(count), str(len(changes["gate"])), *cells, ", unchanged ".join(vary)])
    return table(rows)
