"""How often is each rule wrong on this host? Real launches, replayed in many orders and relabelled.

Half of the launches are of unchanged code and half do 5 % more real work in their decode steps, in turns, first with
nothing else running, then with a competing load on the other core. Each replay draws a baseline and a candidate from
the launches of unchanged code (no change), or a candidate from the slowed ones (a real 5 %), and asks every rule:

  genqual                        the gate: fresh launches until it decides, of 12 in the baseline
  mean * 1.05                    one launch against one: the mean step
  pytest-benchmark mean:5%       one against one: the mean of its rounds
  pytest-benchmark min:5%        one against one: the fastest round
  Mann-Whitney p < .001          one against one: all steps of both, one-sided

Bounds are Clopper-Pearson's at 95 % of the *launches*, which are what is independent: replays of the same launches
are not. Launches are kept in the JSON file, so that an interrupted call goes on; --replay-only measures nothing.

Exit status 0: our gate raised no more false alarms than any other rule and found more. 1: not so.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from scipy import stats

from genqual.gate import admission
from genqual.gate.decision import Settings, decide, settings_for
from genqual.gate.sensitivity import blind
from genqual.gate.verdict import Verdict
from tests.benchmarks.gate_launches import Collector
from tests.benchmarks.ratios import table

BASELINE: Final = 12
Kept = dict[str, Any]
Rule = Callable[[Sequence[Kept], Sequence[Kept]], str]


def gate_rule(old: Sequence[Kept], new: Sequence[Kept], settings: Settings) -> str:
    """The verdict of the gate, launch after launch, admission and self-test included."""
    before = [one["z"] for one in old[:BASELINE]]
    admitted = admission.ranges(one["probes"] for one in old[:BASELINE])
    for count in range(settings.k_min, min(settings.k_max, len(new)) + 1):
        seen = [one for one in new[:count] if not admission.refused(one["probes"], admitted, under_test="engine")]
        if len(seen) < settings.k_min:
            continue
        found = decide(before, [one["z"] for one in seen], settings)
        cannot = blind(
            (value for one in seen for value in one["same"]),
            (value for one in seen for value in one["slowed"]),
            settings.tolerance,
        )
        if found.verdict is not None and not cannot:
            return str(found.verdict.value)
    return str(Verdict.INCONCLUSIVE.value)


def _one(statistic: Callable[[list[float]], float]) -> Rule:
    def rule(old: Sequence[Kept], new: Sequence[Kept]) -> str:
        slower = statistic(new[0]["step_s"]) > 1.05 * statistic(old[0]["step_s"])
        return str((Verdict.REGRESSED if slower else Verdict.PASS).value)

    return rule


def mann_whitney(old: Sequence[Kept], new: Sequence[Kept]) -> str:
    found = stats.mannwhitneyu(new[0]["step_s"], old[0]["step_s"], alternative="greater")
    return str((Verdict.REGRESSED if found.pvalue < 0.001 else Verdict.PASS).value)


RULES: Final[dict[str, Rule]] = {
    "mean * 1.05": _one(lambda steps: float(np.mean(steps))),
    # The rounds of pytest-benchmark are what it is given: our steps. Its mean is the same, its default a round more.
    "pytest-benchmark mean:5%": _one(lambda steps: float(np.mean(steps))),
    "pytest-benchmark min:5%": _one(min),
    "Mann-Whitney p < .001": mann_whitney,
}


def replay(fault_free: Sequence[Kept], slow: Sequence[Kept], replays: int, seed: int, ranks: int) -> dict[str, Any]:
    """Verdicts of each rule by name, on no change and on a real slowdown."""
    rng = np.random.default_rng(seed)
    settings = settings_for("tpot", ranks)
    counts: dict[str, dict[str, Counter[str]]] = {
        name: {"null": Counter(), "slow": Counter()} for name in ("genqual", *RULES)
    }
    for _ in range(replays):
        order = rng.permutation(len(fault_free))
        old, rest = [fault_free[i] for i in order[:BASELINE]], [fault_free[i] for i in order[BASELINE:]]
        changed = [slow[i] for i in rng.permutation(len(slow))]
        for kind, new in (("null", rest), ("slow", changed)):
            counts["genqual"][kind][gate_rule(old, new, settings)] += 1
            for name, rule in RULES.items():
                counts[name][kind][rule(old, new)] += 1
    return counts


def bounds(rate: float, launches: int) -> str:
    """Clopper-Pearson's 95 % bounds were so many of `launches` independent trials to come out so."""
    found = stats.binomtest(round(rate * launches), launches).proportion_ci(0.95, method="exact")
    return f"{found.low:.1%} to {found.high:.1%}"


def levels(launches: Sequence[Kept]) -> str:
    """By how much launches differ in log latency, by the level of their steps that is looked at: why a node under test
    is judged by its fastest steps, too. In the last column are the launches that are quiet.
    """

    def spread(kept: Sequence[Kept], steps: str, level: float) -> str:
        found = [float(np.quantile(np.log(one[steps]), level)) for one in kept]
        return f"{np.std(found, ddof=1):.2%}" if len(found) > 1 else "-"

    def disturbed(one: Kept) -> bool:
        clock = np.log(one["frozen_s"])
        return bool(admission.noisy(float(np.median(clock)), float(np.quantile(clock, 0.05))))

    timed = [one for one in launches if "frozen_s" in one]
    quiet = [one for one in timed if not disturbed(one)]
    rows = [["level of the steps", "candidate", "reference step", f"of {len(quiet)} quiet of {len(timed)}"]]
    for name, level in (("median", 0.5), ("lower quartile", 0.25), ("fastest 5 %", 0.05), ("fastest", 0.0)):
        each = [spread(kept, steps, level) for kept in (timed, quiet) for steps in ("step_s", "frozen_s")]
        rows.append([name, each[0], each[1], " and ".join(each[2:])])
    return table(rows)


def report(
    condition: str, fault_free: Sequence[Kept], slow: Sequence[Kept], replays: int, seed: int, ranks: int
) -> bool:
    good = [[one for one in arm if "failed" not in one] for arm in (fault_free, slow)]
    if len(good[0]) < BASELINE + 3 or len(good[1]) < 3:
        print(f"{condition}: {len(good[0])} fault-free and {len(good[1])} slowed launches are too few to replay")
        if len(good[0]) > 2:
            sigma = float(np.std([one["z"] for one in good[0]], ddof=1))
            print(f"sigma of z {sigma:.2%} (of log latency {np.std([one['raw'] for one in good[0]], ddof=1):.1%})")
        return False
    spread = [float(np.std([one["z"] for one in arm], ddof=1)) for arm in good]
    raw = float(np.std([one["raw"] for one in good[0]], ddof=1))
    shift = float(np.mean([one["z"] for one in good[1]]) - np.mean([one["z"] for one in good[0]]))
    print(
        f"\n{condition}: {len(good[0])} fault-free launches, sigma of z {spread[0]:.2%} (of log latency {raw:.1%}); "
        f"{len(good[1])} slowed, sigma {spread[1]:.2%}, slower by {np.expm1(shift):.1%}; {replays} replays"
    )
    print(levels(good[0]))
    counts = replay(good[0], good[1], replays, seed, ranks)
    head = ["rule", "false alarms", "95 % bounds", "5 % found", "95 % bounds", "5 % passed", "inconclusive"]
    rows = [head]
    for name, found in counts.items():
        alarm, seen = (found[kind][Verdict.REGRESSED.value] / replays for kind in ("null", "slow"))
        passed = (found["slow"][Verdict.PASS.value] + found["slow"][Verdict.IMPROVED.value]) / replays
        none = max(found[kind][Verdict.INCONCLUSIVE.value] for kind in ("null", "slow")) / replays
        rows.append(
            [
                *(name, f"{alarm:.2%}", bounds(alarm, len(good[0])), f"{seen:.2%}", bounds(seen, len(good[1]))),
                *(f"{passed:.2%}", f"{none:.2%}"),
            ]
        )
    print(table(rows))
    ours = counts["genqual"]
    return all(
        ours["null"][Verdict.REGRESSED.value] <= found["null"][Verdict.REGRESSED.value]
        and ours["slow"][Verdict.REGRESSED.value] >= found["slow"][Verdict.REGRESSED.value]
        for name, found in counts.items()
        if name != "genqual"
    )


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        "python -m tests.benchmarks.gate_power", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    made.add_argument("--model", default="llama-30m")
    made.add_argument("--engine", default="transformers", help="the slowed arm needs transformers")
    made.add_argument("--dtype", default="bf16", help="of the engine (default: %(default)s)")
    made.add_argument("--ranks", type=int, default=1)
    made.add_argument("--fault-free", type=int, default=36, help="launches a condition (default: %(default)s)")
    made.add_argument("--slow", type=int, default=24, help="launches a condition (default: %(default)s)")
    made.add_argument("--conditions", default="quiet,busy", help="quiet, busy or both (default: %(default)s)")
    made.add_argument("--replays", type=int, default=2000)
    made.add_argument("--seed", type=int, default=20261122)
    made.add_argument("--json", type=Path, default=Path("gate-launches.json"), help="launches (default: %(default)s)")
    made.add_argument("--replay-only", action="store_true", help="of what the JSON file has")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    if options.slow and options.engine != "transformers" and not options.replay_only:
        parser().error(f"--engine {options.engine}: only transformers can be slowed on purpose; give --slow 0")
    collector = Collector(
        options.json, model=options.model, engine_name=options.engine, ranks=options.ranks, dtype=options.dtype
    )
    fine = True
    for condition in options.conditions.split(","):
        if not options.replay_only:
            collector.collect({"honest": options.fault_free, "slow": options.slow}, condition)
        fine &= report(
            condition,
            collector.of("honest", condition),
            collector.of("slow", condition),
            options.replays,
            options.seed,
            options.ranks,
        )
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
