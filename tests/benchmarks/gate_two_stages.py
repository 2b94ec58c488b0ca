"""How often is the whole rule wrong on hosts that drift? Made-up histories: stage one by the file, then pairs.

Every occasion of a class shares an offset; its standard deviation is the row's drift, or differs from class to class
as the prior says. The baseline has launches of some occasions, `rebase` estimates drift from them, the tolerance
follows from that, and the launches of now are of one occasion more. "Alone": stage one decides, at the tolerance that
it can hold. "Paired": what stage one leaves open at the metric's own tolerance is decided by launches of both builds in
turns. A launch is as in `gate_simulation`: steps that are alike with their neighbours, and t with five degrees between
launches. Nothing is timed, so this may run anywhere.

    python -m tests.benchmarks.gate_two_stages --histories 100000

Exit status 0: with drift as the prior has it, both ways, false alarms <= 0.1 %, false passes <= 0.5 %, power >= 99 %
at the tolerance. 1: not so.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from genqual.gate import drift
from genqual.gate.decision import FLOOR, Settings, settings_for
from genqual.gate.evalues import threshold
from genqual.gate.stages import pairs_of, stage_one
from genqual.gate.tolerances import NOISE, POWER_Z
from tests.benchmarks.gate_simulation import CHUNK, VERDICTS, Array, Many, judge_many, step_noise
from tests.benchmarks.ratios import save, table

STANDARD: Final = 0.05
METRICS: Final = 8


@dataclass(frozen=True)
class Row:
    """One kind of class. `drift` None: another for each class, drawn as the prior has it; `each`: launches an occasion.

    `pairs_sigma`: what launches of a paired run vary by, which is that of their own occasion.
    """

    name: str
    sigma: float
    drift: float | None
    occasions: int
    each: int

    @property
    def when(self) -> list[int]:
        """The occasion of each launch of the baseline."""
        return [index // self.each for index in range(self.occasions * self.each)]


ROWS: Final = (
    Row("prior, --quick: one occasion", 0.007, None, 1, 8),
    Row("prior, one occasion of 16", 0.007, None, 1, 16),
    Row("prior, five occasions", 0.007, None, 5, 4),
    Row("prior, ten occasions", 0.007, None, 10, 3),
    Row("prior, noisy launches", 0.014, None, 5, 4),
    Row("prior, quiet launches", 0.005, None, 5, 4),
    Row("no drift", 0.007, 0.0, 5, 4),
    Row("drift 0.3 %", 0.007, 0.003, 5, 4),
    Row("drift 0.6 %", 0.007, 0.006, 5, 4),
    Row("drift 0.9 %", 0.007, 0.009, 5, 4),
    Row("drift 1.2 %", 0.007, 0.012, 5, 4),
    Row("drift 1.2 %, ten occasions", 0.007, 0.012, 10, 3),
    Row("drift 1.6 %", 0.007, 0.016, 5, 4),
    Row("drift 2 %, ten occasions", 0.007, 0.020, 10, 3),
    Row("drift 1.2 %, --quick: the prior knows nothing of it", 0.007, 0.012, 1, 8),
    Row("drift 2 %, --quick: far outside the prior", 0.007, 0.020, 1, 8),
)


def launches(rng: np.random.Generator, pool: Array, shape: tuple[int, int], sigma: float) -> Array:
    """(histories, launches) of one occasion each, without its offset."""
    within = 0.5 * sigma
    steps = rng.choice(pool, shape) / pool.std() * within
    return np.asarray(
        steps + rng.standard_t(5, shape) / math.sqrt(5 / 3) * math.sqrt(sigma**2 - within**2), dtype=np.float64
    )


def estimated(old: Array, row: Row) -> tuple[Array, Array]:
    """`drift.estimated` of many balanced baselines: the standard deviation, likely and cautious, one a history."""
    parts = old.reshape(len(old), row.occasions, row.each)
    freedom = drift.PRIOR_FREEDOM + row.occasions - 1
    known = np.full(len(old), drift.PRIOR_FREEDOM * drift.prior(STANDARD, stepped=True) ** 2)
    if row.occasions > 1:
        noise = parts.var(axis=2).sum(axis=1) * row.each / (row.occasions * (row.each - 1))
        between = parts.mean(axis=2).var(axis=1) * row.occasions
        known += np.maximum(0.0, between - noise * (row.occasions - 1) / row.each)
    likely = np.sqrt(known / freedom)
    return likely, likely * drift.Drift(1.0, freedom).cautious


def held(old: Array, row: Row, likely: Array, cautious: Array, settings: Settings) -> Array:
    """`tolerances.allowed` of many baselines at once, in whole percents."""
    wide = Many.of(old, cautious, row.when)
    sigma = np.maximum(np.sqrt(wide.squares / wide.freedom), FLOOR)
    whole = 1.0 / settings.k_max + wide.ratio + 1.0 / wide.precision
    noise = 1.0 / settings.k_max + 1.0 / old.shape[1]
    error = np.sqrt(sigma**2 * noise + wide.sigma**2 * np.maximum(0.0, whole - noise))
    freedom = wide.freedom + settings.k_max - 1.0
    # The threshold depends on one smooth number: by interpolation, because a bisection a history takes minutes.
    reach = (1.0 + wide.ratio) / whole
    grid = np.geomspace(reach.min() * 0.999, reach.max() * 1.001, 60)
    most = np.interp(reach, grid, [threshold(-math.log(settings.alpha), freedom, float(one)) for one in grid])
    distance = error * (most + POWER_Z)
    least = np.ceil(100 * np.maximum(np.expm1(distance), sigma / NOISE)) / 100
    return np.asarray(np.maximum(STANDARD, least), dtype=np.float64)


def in_turns(old: Array, new: Array, settings: Settings) -> NDArray[np.int64]:
    """Verdicts on launches of two builds in turns: as many of each, a look after every pair."""
    verdicts = np.full(len(old), 3)
    for n in range(settings.k_min, settings.k_max + 1):
        live = np.flatnonzero(verdicts == 3)
        if not len(live):
            break
        once = replace(settings, k_min=n, k_max=n, final=n == settings.k_max)
        verdicts[live] = judge_many(old[live, :n], new[live, :n], once)[0]
    return verdicts


def simulate(
    row: Row, slower: float | None, count: int, pool: Array, seed: int, asked: float = STANDARD
) -> dict[str, Any]:
    """Shares of verdicts of `count` histories: alone and paired. `slower` None: by the tolerance of the stage.

    `slower` of infinity: faster, because the baseline does as much more work. `asked`: the run's `--gate-tolerance`.
    """
    rng = np.random.default_rng(seed)
    prior, freedom = drift.prior(STANDARD, stepped=True), drift.PRIOR_FREEDOM
    settings = settings_for("tpot", 1, metrics=METRICS)
    # What launches of an occasion vary by limits pairs as well: `tolerances.paired`, with the row's own sigma.
    narrow = replace(settings, tolerance=max(asked, math.ceil(round(100 * row.sigma / NOISE, 6)) / 100))
    alone, both, second, tolerances = [], [], [], []
    for start in range(0, count, CHUNK):
        part = min(CHUNK, count - start)
        truth = np.full(part, row.drift)
        if row.drift is None:
            truth = prior * np.sqrt(freedom / rng.chisquare(freedom, part))
        offsets = rng.standard_normal((part, row.occasions)) * truth[:, None]
        old = launches(rng, pool, (part, len(row.when)), row.sigma) + np.repeat(offsets, row.each, axis=1)
        now = launches(rng, pool, (part, settings.k_max), row.sigma) + (rng.standard_normal(part) * truth)[:, None]
        likely, cautious = estimated(old, row)
        limits = held(old, row, likely, cautious, settings)
        sign = -1.0 if slower == math.inf else 1.0
        own = sign * np.log1p(limits) if slower in (None, math.inf) else np.full(part, math.log1p(slower or 0.0))
        shifted = now + own[:, None]
        alone.append(judge_many(old, shifted, settings, drift=cautious, occasions=row.when, limits=limits)[0])
        shift = sign * math.log1p(narrow.tolerance if slower is None or slower == math.inf else slower)
        first = judge_many(old, now + shift, stage_one(narrow), drift=cautious, occasions=row.when)[0]
        open_ = np.flatnonzero(first == 3)
        other, today = (launches(rng, pool, (len(open_), settings.k_max), row.sigma) for _ in range(2))
        first[open_] = in_turns(other, today + shift, pairs_of(narrow))
        both.append(first)
        second.append(len(open_))
        tolerances.append(limits)
    widths = np.concatenate(tolerances)
    return {
        "alone": _shares(np.concatenate(alone)),
        "paired": _shares(np.concatenate(both)),
        "second": sum(second) / count,
        "paired_tolerance": narrow.tolerance,
        "tolerance": [float(np.quantile(widths, level)) for level in (0.5, 0.95)],
    }


def _shares(verdicts: NDArray[np.int64]) -> dict[str, float]:
    return {verdict.value: float((verdicts == index).mean()) for index, verdict in enumerate(VERDICTS)}


def rates(row: Row, count: int, pool: Array, seed: int, asked: float = STANDARD) -> dict[str, Any]:
    """What the promise is about, by way: false alarms, false passes, power, inconclusive without a change.

    `improved`: of builds that are as much faster, how many are called so.
    """
    null, slow, fast = (
        simulate(row, slower, count, pool, seed + turn, asked) for turn, slower in enumerate((0.0, None, math.inf))
    )
    made: dict[str, Any] = {"row": row.name, "second": null["second"]}
    made |= {name: null[name] for name in ("tolerance", "paired_tolerance")}
    for way in ("alone", "paired"):
        made[way] = {
            "false_alarms": null[way]["regressed"],
            "false_pass": slow[way]["pass"] + slow[way]["improved"],
            "power": slow[way]["regressed"],
            "improved": fast[way]["improved"],
            "inconclusive": null[way]["inconclusive"],
        }
    return made


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        "python -m tests.benchmarks.gate_two_stages",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    made.add_argument("--histories", type=int, default=100_000, help="a row (default: %(default)s)")
    made.add_argument("--rows", default=f"1-{len(ROWS)}", help="from-to, of the table (default: all); or one number")
    made.add_argument("--tolerance", type=float, default=STANDARD, help="that pairs are asked for, as --gate-tolerance")
    made.add_argument("--seed", type=int, default=20261129)
    made.add_argument("--json", type=Path, help="write the result here as well")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    pool = step_noise(np.random.default_rng(options.seed), max(1000, options.histories // 2))
    head = ["class", "tolerance, median (p95)", "false alarms", "false pass", "power", "improved", "inconclusive"]
    alone, both, kept, fine = [head], [["class", "tolerance", "goes to stage two", *head[2:]]], [], True
    first, _, last = options.rows.partition("-")
    for row in ROWS[int(first) - 1 : int(last or first)]:
        print(f"{row.name} ...", file=sys.stderr, flush=True)
        found = rates(row, options.histories, pool, options.seed + 1, options.tolerance)
        kept.append(found)
        names = ("false_alarms", "false_pass", "power", "improved", "inconclusive")
        middle, most = found["tolerance"]
        alone.append([row.name, f"{middle:.0%} ({most:.0%})", *(f"{found['alone'][name]:.3%}" for name in names)])
        both.append(
            [
                row.name,
                f"{found['paired_tolerance']:.0%}",
                f"{found['second']:.0%}",
                *(f"{found['paired'][name]:.3%}" for name in names),
            ]
        )
        if row.drift is None:
            fine &= all(
                one["false_alarms"] <= 0.001 and one["false_pass"] <= 0.005 and one["power"] >= 0.99
                for one in (found["alone"], found["paired"])
            )
    print(f"the file alone, at the tolerance that it can hold:\n\n{table(alone)}")
    print(f"\nwith a build to pair with:\n\n{table(both)}")
    print(f"\n{options.histories} histories a cell; alpha 0.001 split over {METRICS} metrics; seed {options.seed}")
    save(options.json, {"histories": options.histories, "rows": kept})
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
