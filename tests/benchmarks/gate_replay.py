"""What the former rule and today's would have said on launches that were really made. Measures nothing.

    python -m tests.benchmarks.gate_replay

Two records: docs/evidence/gate-over-time/, launches of one commit by class and dtype, unchanged and with 5 % more work;
and the committed baselines, whose batches were made ten minutes to half an hour apart (slower: the same times 1.05).
A replay draws a baseline of eight launches from all occasions but one and up to twelve launches of now from that one,
with replacement within an occasion, and judges them: as before drift was counted; by the file alone, at the tolerance
that such a baseline can hold; and by the file, then in pairs, both sides from the occasion of now. What is independent
is the occasions, and they are few: read the numbers as what the rules do on these launches, not as rates.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from genqual.gate import baseline_file
from genqual.gate.baseline_file import Launch
from genqual.gate.decision import settings_for
from genqual.gate.drift import OCCASION_S, prior
from genqual.gate.stages import pairs_of, stage_one
from genqual.gate.tolerances import Known, allowed, paired
from tests.benchmarks.gate_simulation import VERDICTS, judge_many
from tests.benchmarks.gate_two_stages import in_turns
from tests.benchmarks.over_time import record, report
from tests.benchmarks.ratios import table

SIZE: Final = 8  # launches of a baseline
STANDARD: Final = 0.05
BASELINES: Final = Path(__file__).resolve().parents[2] / "baselines" / "latency"


@dataclass(frozen=True)
class Occasion:
    """Log ratios of launches made within a quarter of an hour: unchanged, and slower by 5 %."""

    same: tuple[float, ...]
    slower: tuple[float, ...]


def of_record(found: Iterable[tuple[dict[str, Any], list[dict[str, Any]]]]) -> dict[str, list[Occasion]]:
    """By dtype; files of one quarter of an hour are one occasion."""
    times: dict[str, list[tuple[float, str, float]]] = defaultdict(list)
    for _, launches in found:
        for one in launches:
            if one["arm"] in ("same", "slower"):
                times[f"record, {one['dtype']} tpot"].append((one["at"], one["arm"], report.log_ratio(one)))
    made: dict[str, list[Occasion]] = {}
    for name, rows in times.items():
        groups: list[dict[str, list[float]]] = []
        last = -float("inf")
        for at, arm, value in sorted(rows):
            if at - last > OCCASION_S:
                groups.append({"same": [], "slower": []})
            groups[-1][arm].append(value)
            last = at
        made[name] = [Occasion(tuple(one["same"]), tuple(one["slower"])) for one in groups if one["same"]]
    return made


def of_baselines(place: Path = BASELINES) -> dict[str, list[Occasion]]:
    """By model and metric, each batch an occasion."""
    made: dict[str, list[Occasion]] = {}
    for path in sorted(place.glob("*.json")):
        if path.stem == "schema":
            continue
        for entry in baseline_file.read(path).entries.values():
            if entry.subject.metric not in ("tpot", "ttft", "tokens_per_s"):
                continue
            batches: dict[int, list[float]] = defaultdict(list)
            for one in entry.launches:
                batches[one.batch].append(one.z)
            name = f"baseline, {entry.subject.weights[0][:6]} {entry.subject.metric}"
            made[name] = [
                Occasion(tuple(part), tuple(z + math.log1p(STANDARD) for z in part)) for part in batches.values()
            ]
    return made


def launch_of(z: float, batch: int) -> Launch:
    """What the rules read of a launch."""
    return Launch(
        z=z, raw=z, frozen=0.0, steps=1, p50=1.0, p90=1.0, p99=1.0, autocorrelation_steps=None, cpu_share=None,
        batch=batch,
    )  # fmt: skip


def replay(occasions: Sequence[Occasion], count: int, arm: str, seed: int) -> dict[str, NDArray[np.int64]]:
    """Indices in VERDICTS by rule, of `count` replays."""
    rng, settings = np.random.default_rng(seed), settings_for("tpot", 1, metrics=8)
    when = [index * (len(occasions) - 1) // SIZE for index in range(SIZE)]
    old, new, beside = (np.empty((count, size)) for size in (SIZE, settings.k_max, settings.k_max))
    drift, limits, narrow = np.empty(count), np.empty(count), np.empty(count)
    for row in range(count):
        today = int(rng.integers(len(occasions)))
        others = [one for index, one in enumerate(occasions) if index != today]
        old[row] = [float(rng.choice(others[batch].same)) for batch in when]
        new[row] = rng.choice(getattr(occasions[today], arm), settings.k_max)
        beside[row] = rng.choice(occasions[today].same, settings.k_max)
        launches = [launch_of(float(z), batch) for z, batch in zip(old[row], when, strict=True)]
        known = Known.measured(launches, prior(STANDARD, stepped=True), range(len(others)))
        drift[row] = known.drift.cautious
        limits[row] = allowed(launches, known, settings)
        narrow[row] = paired(launches, known, settings)
    first = judge_many(old, new, stage_one(settings), drift=drift, occasions=when, limits=narrow)[0]
    for tolerance in np.unique(narrow):
        chosen = np.flatnonzero((first == 3) & (narrow == tolerance))
        asked = pairs_of(replace(settings, tolerance=float(tolerance)))
        first[chosen] = in_turns(beside[chosen], new[chosen], asked)
    wide = f"the file alone, at {np.median(limits):.0%} ({limits.min():.0%} to {limits.max():.0%})"
    return {
        "former rule, at 5%": judge_many(old, new, settings)[0],
        wide: judge_many(old, new, settings, drift=drift, occasions=when, limits=limits)[0],
        f"the file, then pairs, at {np.median(narrow):.0%}": first,
    }


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        "python -m tests.benchmarks.gate_replay", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    made.add_argument("--replays", type=int, default=1000, help="of each series and arm (default: %(default)s)")
    made.add_argument("--seed", type=int, default=20261129)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    rows = [["series", "occasions", "launches are", "rule", *(one.label for one in VERDICTS)]]
    for name, occasions in {**of_record(record.occasions()), **of_baselines()}.items():
        for arm in ("same", "slower"):
            usable = [one for one in occasions if getattr(one, arm)]
            if len(usable) < 2:
                print(f"{name}, {arm}: one occasion, and nothing to compare it with", file=sys.stderr)
                continue
            for rule, found in replay(usable, options.replays, arm, options.seed).items():
                shares = [f"{(found == index).mean():.1%}" for index in range(len(VERDICTS))]
                rows.append([name, str(len(usable)), arm, rule, *shares])
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
