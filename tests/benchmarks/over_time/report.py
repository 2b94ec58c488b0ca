"""What the record of launches over time shows. NumPy only; measures nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

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
    """Tables: spread within and between occasions by class, and what each arm changes."""
    by_class: dict[tuple[str, str], list[tuple[dict[str, Any], list[Launch]]]] = defaultdict(list)
    for head, launches in occasions:
        for dtype in sorted({launch["dtype"] for launch in launches}):
            chosen = [launch for launch in launches if launch["dtype"] == dtype]
            by_class[(head["class"], dtype)].append((head, chosen))
    parts = []
    for (name, dtype), found in sorted(by_class.items()):
        hosts, boots = len({head["host"] for head, _ in found}), len({head["boot"] for head, _ in found})
        count = sum(len(launches) for _, launches in found)
        parts.append(
            f"{name}, {dtype}: {count} launches, {len(found)} occasions, {hosts} hosts, {boots} boots\n\n"
            f"{_spreads(found)}\n\n{_arms(found)}"
        )
    return "\n\n".join(parts) or "the record is empty"


def _spreads(found: Sequence[Occasion]) -> str:
    plain = [[statistics(launch) for launch in launches if launch["arm"] == "same"] for _, launches in found]
    plain = [group for group in plain if group]
    rows = [["unchanged arm, %", "within an occasion", "between occasions", "largest distance of two means"]]
    for name in plain[0][0] if plain else ():
        groups = [np.array([one[name] for one in group]) for group in plain]
        within, between = spread(groups)
        means = [group.mean() for group in groups]
        far = f"{100 * (max(means) - min(means)):.2f}" if len(means) > 1 else "one occasion"
        rows.append([name, f"{100 * within:.2f}", _percent(between), far])
    return table(rows)


def _arms(found: Sequence[Occasion]) -> str:
    rows = [["against the unchanged arm of its occasion, %", "launches", "gate", "/ twin", "latency"]]
    for arm in sorted({launch["arm"] for _, launches in found for launch in launches} - {"same"}):
        changes: dict[str, list[float]] = defaultdict(list)
        for _, launches in found:
            plain = [statistics(launch) for launch in launches if launch["arm"] == "same"]
            for launch in launches:
                if launch["arm"] == arm and plain:
                    own = statistics(launch)
                    for name in ("gate", "/ twin", "latency"):
                        changes[name].append(own[name] - float(np.mean([one[name] for one in plain])))
        cells = [f"{100 * np.mean(values):+.2f} (sd {100 * np.std(values):.2f})" for values in changes.values()]
        rows.append([arm, str(len(changes["gate"])), *cells])
    return table(rows)


def _percent(value: float) -> str:
    return "unknown" if np.isnan(value) else f"{100 * value:.2f}"
