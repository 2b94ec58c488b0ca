"""Rank the nodes of a fleet by the same measurements, and name outliers. Pure: NumPy only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from genqual.analysis.accuracy import Accuracy
from genqual.analysis.cells import cells, value
from genqual.analysis.interval import LEVEL, RESAMPLES, SEED
from genqual.records.record import Record

METRICS: Final = ("tpot", "ttft", "tokens_per_s")
FEWEST_NODES: Final = 5  # below it a spread over nodes says nothing
FEWEST_ROWS: Final = 5  # for an interval
BEYOND: Final = 3.5  # robust standard deviations
LEAST: Final = 0.02  # a difference below it is nobody's concern, however alike the others are


@dataclass(frozen=True, slots=True)
class ComparedNode:
    """One node: how many times slower than its fleet's median (1.05: 5 % slower), the median over its rows.

    `interval` is the 95 % bootstrap over rows; `outlier` says why it stands out, or is empty.
    """

    name: str
    slower: float
    rows: int
    interval: tuple[float, float] | None
    outlier: str


@dataclass(frozen=True, slots=True)
class Fleet:
    """The nodes of one hardware class, fastest first, and what a reader must know."""

    class_id: str
    nodes: tuple[ComparedNode, ...]
    notes: tuple[str, ...]


def by_node(records: Sequence[Record]) -> list[Fleet]:
    """Rank the nodes of each hardware class that has several; records without a node are left out and counted."""
    classes: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        classes[record.system.class_id].append(record)
    return [_fleet(class_id, some) for class_id, some in sorted(classes.items())]


def _fleet(class_id: str, records: Sequence[Record]) -> Fleet:
    hosts: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        hosts[record.system.host or ""].append(record)
    unnamed = len(hosts.pop("", []))
    relative = _relative(hosts)
    scores = {name: float(np.median(list(some.values()))) for name, some in relative.items() if some}
    notes = [f"{unnamed} records name no node"] if unnamed else []
    notes += [f"{name}: no row that another node has" for name in sorted(set(hosts) - set(scores))]
    if 0 < len(scores) < FEWEST_NODES:
        notes.append(f"{len(scores)} nodes: outliers are named from {FEWEST_NODES} on")
    wrong = {name: fault for name, some in hosts.items() if (fault := _fault(some))}
    beyond = _beyond(scores)
    nodes = [
        ComparedNode(
            name,
            float(np.exp(score)),
            len(relative[name]),
            _interval(list(relative[name].values())),
            "; ".join(filter(None, (wrong.get(name, ""), beyond.get(name, "")))),
        )
        for name, score in sorted(scores.items(), key=lambda item: item[1])
    ]
    return Fleet(class_id, tuple(nodes), tuple(notes))


def _relative(hosts: dict[str, list[Record]]) -> dict[str, dict[tuple[str, ...], float]]:
    """By node and row: log of how many times slower it is there than the median of the nodes that have the row."""
    values: dict[tuple[str, ...], dict[str, float]] = defaultdict(dict)
    for name, records in hosts.items():
        for cell in cells(records, "measurement"):
            if cell.status != "ok" or cell.last.provenance.kind == "simulated":
                continue
            for identity, metrics in cell.metrics().items():
                number = value(metrics)
                if identity[0] in METRICS and number > 0:
                    slower = number if metrics[0].better == "lower" else 1 / number
                    values[(cell.last.key, *identity)][name] = float(np.log(slower))
    found: dict[str, dict[tuple[str, ...], float]] = {name: {} for name in hosts}
    for row, some in values.items():
        if len(some) > 1:
            middle = float(np.median(list(some.values())))
            for name, number in some.items():
                found[name][row] = number - middle
    return found


def _beyond(scores: dict[str, float]) -> dict[str, str]:
    """The nodes farther from the median than the spread of the others explains, by the median absolute deviation."""
    if len(scores) < FEWEST_NODES:
        return {}
    every = np.array(list(scores.values()))
    middle = float(np.median(every))
    spread = 1.4826 * float(np.median(np.abs(every - middle)))
    limit = max(BEYOND * spread, LEAST)
    return {
        name: f"outlier: {abs(np.exp(score - middle) - 1):.1%} {_way(score > middle)} than the fleet"
        for name, score in scores.items()
        if abs(score - middle) > limit
    }


def _way(slower: bool) -> str:
    return "slower" if slower else "faster"


def _fault(records: Iterable[Record]) -> str:
    """The first failed verdict on this node, which no speed makes good."""
    some = list(records)
    accuracy = Accuracy(some)
    return next((fault for record in some if (fault := accuracy.fault(record))), "")


def _interval(logs: Sequence[float]) -> tuple[float, float] | None:
    if len(logs) < FEWEST_ROWS:
        return None
    every = np.asarray(logs)
    drawn = np.random.default_rng(SEED).integers(0, every.size, (RESAMPLES, every.size))
    low, high = np.quantile(np.median(every[drawn], axis=1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(np.exp(low)), float(np.exp(high))
