"""How often is the gate wrong? 100,000 made-up histories a row: baseline launches, then launches until it decides.

A launch's z is the median of steps that are alike with their neighbours (AR(1)), plus what a launch differs by (t with
five degrees of freedom), plus drift: a random walk over the launches of a session, and an offset of the whole session.
Its standard deviation is the sigma of the row. In rows with `hours`, each batch of the baseline was made in an hour of
its own, as were the launches of now, and hours differ by that much. Nothing is timed, so this may run anywhere.

Exit status 0: on one rank at a sigma of 1 %, false alarms <= 0.1 %, false passes at the tolerance <= 0.5 %, power at
the tolerance >= 99 %, inconclusive <= 1 %. 1: not so.
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
from numpy.typing import ArrayLike, NDArray

from genqual.gate.decision import FLOOR, NOISIER, Settings, settings_for
from genqual.gate.evalues import log_e
from genqual.gate.verdict import Verdict
from tests.benchmarks.ratios import save, table

Array = NDArray[np.float64]
STEPS: Final = 139  # plain steps of a launch
CHUNK: Final = 10_000
VERDICTS: Final = (Verdict.REGRESSED, Verdict.PASS, Verdict.IMPROVED, Verdict.INCONCLUSIVE)


@dataclass(frozen=True)
class Row:
    """One kind of history. `noisier` multiplies what launches of now vary by; `drift` is of a session, absolute.

    `hours` is the standard deviation of what all launches of an hour share, `batches` in how many hours the baseline
    was made.
    """

    name: str
    ranks: int
    sigma: float
    tolerance: float
    baseline: int = 16
    metrics: int = 8
    noisier: float = 1.0
    drift: float = 0.002
    hours: float = 0.0
    batches: int = 1
    allowance: float = 0.0

    @property
    def settings(self) -> Settings:
        standard = settings_for("tpot", self.ranks, metrics=self.metrics)
        return replace(standard, tolerance=self.tolerance, allowance=self.allowance)


ROWS: Final = (
    Row("one rank", 1, 0.010, 0.05),
    Row("one rank, quiet", 1, 0.005, 0.05),
    Row("one rank, noisier now", 1, 0.010, 0.05, noisier=3.0),
    Row("one rank, the most that 5 % holds", 1, 0.011, 0.05),
    Row("one rank, more than that", 1, 0.0125, 0.05),
    Row("two ranks, 5 %", 2, 0.020, 0.05),
    Row("two ranks, 8 %", 2, 0.020, 0.08),
    Row("two ranks, 10 %", 2, 0.020, 0.10),
    Row("stretch: 2 %, 30 launches", 1, 0.005, 0.02, baseline=30, drift=0.001),
    Row("hours 0.5 % apart", 1, 0.006, 0.05, 20, hours=0.005, batches=5),
    Row("hours 0.6 % apart", 1, 0.006, 0.05, 20, hours=0.006, batches=5),
    Row("the same, a baseline of two hours", 1, 0.006, 0.05, 16, hours=0.006, batches=2),
    Row("hours 1 % apart", 1, 0.006, 0.05, 20, hours=0.010, batches=5),
    Row("hours 1.2 % apart, a tolerance of 10 %", 1, 0.010, 0.10, 20, hours=0.012, batches=5),
    Row("a node: 2.5 % left to the hour", 1, 0.010, 0.05, 16, 32, allowance=0.025),
    Row("the same, hours 1 % apart", 1, 0.010, 0.05, 16, 32, hours=0.010, allowance=0.025),
    Row("the same, nothing left to the hour", 1, 0.010, 0.05, 16, 32, hours=0.010),
)


def step_noise(rng: np.random.Generator, count: int) -> Array:
    """Medians of `count` launches of STEPS steps, lag-1 correlation 0.45, each step of unit deviation."""
    steps = rng.standard_normal((count, STEPS), dtype=np.float32)
    for index in range(1, STEPS):
        steps[:, index] = 0.45 * steps[:, index - 1] + math.sqrt(1 - 0.45**2) * steps[:, index]
    return np.asarray(np.median(steps, axis=1), dtype=np.float64)


def launches(
    rng: np.random.Generator, row: Row, pool: Array, count: int, each: int, sigma: float, batches: int = 1
) -> Array:
    """(count, each) logarithmic times of unchanged code, each row of them one session of `batches` hours."""
    within = 0.5 * sigma  # a quarter of the variance is of steps
    steps = rng.choice(pool, (count, each)) / pool.std() * within
    between = rng.standard_t(5, (count, each)) / math.sqrt(5 / 3) * math.sqrt(sigma**2 - within**2)
    walk = rng.standard_normal((count, each)).cumsum(axis=1) * row.drift / math.sqrt(each)
    hour = rng.standard_normal((count, batches))[:, np.arange(each) * batches // each] * row.hours
    return np.asarray(steps + between + walk + hour + rng.standard_normal((count, 1)) * row.drift, dtype=np.float64)


@dataclass(frozen=True)
class Many:
    """`gate.decision.Against` of many baselines at once: one number a history."""

    middle: Array
    precision: Array
    squares: Array
    freedom: float
    sigma: Array
    ratio: Array

    @classmethod
    def of(cls, old: Array, drift: ArrayLike = 0.0, occasions: Sequence[int] = ()) -> Many:
        """`old` is (histories, launches); `drift` one number or one a history; `occasions` one a launch."""
        each = np.asarray(occasions or [0] * old.shape[1])
        parts = [old[:, each == one] for one in dict.fromkeys(each.tolist())]
        means = np.stack([part.mean(axis=1) for part in parts], axis=1)
        sizes = np.array([part.shape[1] for part in parts])
        within = sum(part.var(axis=1) * part.shape[1] for part in parts)
        free = old.shape[1] - len(parts)
        sigma = np.maximum(np.sqrt(within / free) if free else old.std(axis=1, ddof=1), FLOOR)
        ratio = (np.broadcast_to(np.asarray(drift, dtype=float), len(old)) / sigma) ** 2
        weights = sizes / (1.0 + sizes * ratio[:, None])
        middle = (weights * means).sum(axis=1) / weights.sum(axis=1)
        between = (weights * (means - middle[:, None]) ** 2).sum(axis=1)
        return cls(middle, weights.sum(axis=1), within + between, old.shape[1] - 1.0, sigma, ratio)


def log_slower_many(
    old: Array, new: Array, *, drift: ArrayLike = 0.0, occasions: Sequence[int] = (), limit: float | None = None
) -> Array:
    """`Decision.log_slower` of many histories at once, after all of `new`; with `limit`, a tolerance: `log_within`."""
    n, known = new.shape[1], Many.of(old, drift, occasions)
    mine, shift = new.var(axis=1) * n, new.mean(axis=1) - known.middle
    freedom, noise = known.freedom + n - 1.0, 1.0 / n + 1.0 / old.shape[1]
    whole = 1.0 / n + known.ratio + 1.0 / known.precision
    spread = np.maximum(np.sqrt((known.squares + mine) / freedom), np.sqrt(mine / (n - 1)))
    error = np.sqrt(np.maximum(spread, FLOOR) ** 2 * noise + known.sigma**2 * np.maximum(0.0, whole - noise))
    t = (shift if limit is None else math.log1p(limit) - shift) / error
    reach, loud = (
        (1.0 + known.ratio) / whole,
        mine / (n - 1) > NOISIER**2 * np.maximum(known.squares / known.freedom, FLOOR**2),
    )
    made = log_e(t, freedom, reach)
    made[loud] = np.minimum(made[loud], log_e(t[loud], n - 1.0, reach[loud]))
    return made


def judge_many(
    old: Array,
    new: Array,
    settings: Settings,
    *,
    drift: ArrayLike = 0.0,
    occasions: Sequence[int] = (),
    limits: ArrayLike | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The index in VERDICTS and the launches it took, by history: `gate.decide` after each launch, for many at once.

    `limits`: a tolerance of its own for each history, in place of that of `settings`.
    """
    verdicts, took = np.full(len(old), 3), np.full(len(old), settings.k_max)
    limit_of = np.log1p(np.broadcast_to(settings.tolerance if limits is None else np.asarray(limits), len(old)))
    free = math.log1p(settings.allowance)
    live, known = np.arange(len(old)), Many.of(old, drift, occasions)
    for n in range(settings.k_min, settings.k_max + 1):
        now, limit, ratio = new[live, :n], limit_of[live], known.ratio[live]
        mine = now.var(axis=1) * n
        freedom, noise = known.freedom + n - 1.0, 1.0 / n + 1.0 / old.shape[1]
        whole = 1.0 / n + ratio + 1.0 / known.precision[live]
        spread = np.maximum(np.sqrt((known.squares[live] + mine) / freedom), FLOOR)
        spread = np.maximum(spread, np.sqrt(mine / (n - 1)))
        error = np.sqrt(spread**2 * noise + known.sigma[live] ** 2 * np.maximum(0.0, whole - noise))
        shift, reach = now.mean(axis=1) - known.middle[live], (1.0 + ratio) / whole
        loud = mine / (n - 1) > NOISIER**2 * np.maximum(known.squares[live] / known.freedom, FLOOR**2)
        found = np.full(len(live), 3)

        def at_least(t: Array, where: NDArray[np.bool_], chance: float) -> NDArray[np.bool_]:
            made = np.zeros(len(t), dtype=bool)
            made[where] = log_e(t[where], freedom, reach[where]) >= -math.log(chance)  # noqa: B023 - used in this turn
            doubt = made & loud  # noqa: B023
            made[doubt] = log_e(t[doubt], n - 1.0, reach[doubt]) >= -math.log(chance)  # noqa: B023
            return made

        patient = np.full_like(limit, -np.inf) if settings.final and n == settings.k_max else -limit / 2
        found[at_least((limit - free - shift) / error, (shift < limit) & (shift >= patient), settings.beta)] = 1
        found[at_least((-shift - free) / error, shift < -limit / 2, settings.alpha)] = 2
        found[at_least((shift - free) / error, shift > limit / 2, settings.alpha)] = 0
        decided = found < 3
        verdicts[live[decided]], took[live[decided]] = found[decided], n
        live = live[~decided]
        if not len(live):
            break
    return verdicts, took


def simulate(row: Row, shift: float, count: int, pool: Array, seed: int) -> tuple[dict[str, int], list[float]]:
    """Verdicts by name, and median and 95th percentile of launches, of `count` histories shifted by `shift`."""
    rng = np.random.default_rng(seed)
    verdicts, took = [], []
    for start in range(0, count, CHUNK):
        part = min(CHUNK, count - start)
        old = launches(rng, row, pool, part, row.baseline, row.sigma, row.batches)
        new = launches(rng, row, pool, part, row.settings.k_max, row.sigma * row.noisier) + math.log1p(shift)
        found, needed = judge_many(old, new, row.settings)
        verdicts.append(found)
        took.append(needed)
    all_of = np.concatenate(verdicts)
    counts = {verdict.value: int((all_of == index).sum()) for index, verdict in enumerate(VERDICTS)}
    return counts, [float(np.quantile(np.concatenate(took), level)) for level in (0.5, 0.95)]


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        "python -m tests.benchmarks.gate_simulation",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    made.add_argument("--histories", type=int, default=100_000, help="a row (default: %(default)s)")
    made.add_argument("--rows", default=f"1-{len(ROWS)}", help="from-to, of the table (default: all); or one number")
    made.add_argument("--seed", type=int, default=20261122)
    made.add_argument("--json", type=Path, help="write the result here as well")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    pool = step_noise(np.random.default_rng(options.seed), max(1000, options.histories // 2))
    head = ["row", "sigma", "tolerance", "false alarms", "false pass", "power", "inconclusive", "launches"]
    rows: list[list[str]] = [head]
    kept: list[dict[str, Any]] = []
    fine = True
    first, _, last = options.rows.partition("-")
    for row in ROWS[int(first) - 1 : int(last or first)]:
        print(f"{row.name} ...", file=sys.stderr, flush=True)
        null, at_null = simulate(row, 0.0, options.histories, pool, options.seed + 1)
        slow, at_slow = simulate(row, row.tolerance, options.histories, pool, options.seed + 2)
        rates = {
            "false_alarms": null["regressed"] / options.histories,
            "false_pass": (slow["pass"] + slow["improved"]) / options.histories,
            "power": slow["regressed"] / options.histories,
            "inconclusive": max(null["inconclusive"], slow["inconclusive"]) / options.histories,
        }
        holds = (
            rates["false_alarms"] <= 0.001
            and rates["false_pass"] <= 0.005
            and rates["power"] >= 0.99
            and rates["inconclusive"] <= 0.01
        )
        if row is ROWS[0]:
            fine = holds
        rows.append(
            [row.name, f"{row.sigma:.2%}", f"{row.tolerance:.0%}"]
            + [f"{rates[name]:.3%}" for name in ("false_alarms", "false_pass", "power", "inconclusive")]
            + [f"{at_null[0]:.0f} (p95 {max(at_null[1], at_slow[1]):.0f})"]
        )
        kept.append({"row": row.name, "null": null, "shifted": slow, "holds": holds, **rates})
    print(table(rows))
    print(
        f"\n{options.histories} histories a cell; alpha 0.001 split over {ROWS[0].metrics} metrics; seed {options.seed}"
    )
    save(options.json, {"histories": options.histories, "rows": kept})
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
