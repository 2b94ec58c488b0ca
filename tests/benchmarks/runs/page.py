"""The table of the record of runs, and its place in a page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from tests.benchmarks.runs.record import WANTED, Run, occasions
from tests.benchmarks.runs.rules import RULES

PAGE: Final = Path(__file__).resolve().parents[3] / "docs" / "evidence" / "gate-drift.md"
BEGIN: Final = "<!-- gate-runs: written by `python -m tests.benchmarks.gate_runs --show` -->"
END: Final = "<!-- gate-runs: end -->"

SECONDS: Final = {"stage one": 60.0, "with pairing": 150.0}  # p95 of the whole run, by whether it paired
MISSES: Final = {"same": 5, "slower": 1, "faster": 2, "paired": 1}  # of the runs that are wanted
NEVER: Final = {
    "same": ("regressed", "improved"), "slower": ("pass", "improved"), "faster": ("regressed",), "paired": ("improved",)
}  # fmt: skip
RIGHT: Final = {"same": "pass", "slower": "regressed", "faster": "improved", "paired": "regressed"}
APART: Final = 6  # occasions of unchanged runs that are wanted


def text(runs: Sequence[Run]) -> str:
    """Both tables in Markdown: what the gate said by kind, and what other rules say of the same launches."""
    if not runs:
        return "The record has no runs yet."
    baselines = sorted({(one["baseline"]["name"], one["baseline"]["digest"][:12]) for one in runs})
    named = ", ".join(f"{name} `{digest}`" for name, digest in baselines)
    commits = ", ".join(f"`{one}`" for one in sorted({run["commit"][:12] for run in runs}))
    return (
        f"{len(runs)} runs of {commits} on {occasions(runs)} occasions, judged by these baselines: {named}.\n\n"
        f"{_gate(runs)}\n\n"
        "The same launches by other rules. A rule that compares two launches is given the first of the run and the\n"
        "last of the baseline. Only the gate and the former rule can say that a build is faster; where launches\n"
        f"decide nothing by the former rule, it is `open`.\n\n{_others(runs)}"
    )


def _gate(runs: Sequence[Run]) -> str:
    rows = [["runs", "occasions", "hosts", "verdicts", "seconds, stage one: median, p95", "paired", "as promised"]]
    for kind in WANTED:
        chosen = [one for one in runs if one["kind"] == kind]
        if not chosen:
            continue
        alone = [one["seconds"]["whole"] for one in chosen if not one["seconds"]["stage_two"]]
        pairs = [one["seconds"]["whole"] for one in chosen if one["seconds"]["stage_two"]]
        rows.append(
            [
                *(f"{len(chosen)} {kind}", str(occasions(chosen)), str(len({one["host"] for one in chosen}))),
                *(_counted(Counter(one["verdict"] for one in chosen)), _times(alone)),
                *(f"{len(pairs)}: {_times(pairs)}" if pairs else "0", promised(kind, chosen)),
            ]
        )
    return _markdown(rows)


def _others(runs: Sequence[Run]) -> str:
    kinds = [kind for kind in WANTED if any(one["kind"] == kind for one in runs)]
    rows = [["rule", *kinds], ["today's gate", *(_counted(_verdicts(runs, kind)) for kind in kinds)]]
    for name, rule in RULES.items():
        rows.append([name, *(_counted(Counter(rule(one) for one in runs if one["kind"] == kind)) for kind in kinds)])
    return _markdown(rows)


def promised(kind: str, runs: Sequence[Run]) -> str:
    """Whether these runs of a kind show what is promised of it, refute it, or are too few for either."""
    found, wanted = _verdicts(runs, kind), WANTED[kind]
    never = sum(found[word] for word in NEVER[kind])
    missed = len(runs) - found[RIGHT[kind]]
    slow = [one["seconds"]["whole"] for one in runs if not one["seconds"]["stage_two"]]
    paired = [one["seconds"]["whole"] for one in runs if one["seconds"]["stage_two"]]
    late = [
        word for word, times in zip(SECONDS, (slow, paired), strict=True)
        if times and np.quantile(times, 0.95) > SECONDS[word]
    ]  # fmt: skip
    if never or missed > MISSES[kind] * max(1.0, len(runs) / wanted):
        return "NO"
    if len(runs) < wanted or (kind == "same" and occasions(runs) < APART):
        return f"too few: {wanted} runs" + (f" on {APART} occasions" if kind == "same" else "")
    return f"yes, but p95 of {' and of '.join(late)} is too long" if late else "yes"


def _verdicts(runs: Sequence[Run], kind: str) -> Counter[str]:
    return Counter(str(one["verdict"]) for one in runs if one["kind"] == kind)


def _counted(found: Counter[str]) -> str:
    return ", ".join(f"{count} {word if word == 'open' else word.upper()}" for word, count in found.most_common())


def _times(seconds: Sequence[float]) -> str:
    return f"{np.median(seconds):.0f}, {np.quantile(seconds, 0.95):.0f}" if seconds else "-"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *rest = ("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join([head, "|" + "---|" * len(rows[0]), *rest])


def put(page: Path, made: str) -> None:
    """Replace what lies between the markers of the page. Raises SystemExit where they are missing."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{page} has no place for the table: put {BEGIN} and {END} where it belongs")
    page.write_text(f"{before}{BEGIN}\n\n{made}\n\n{END}{after}", encoding="utf-8")
