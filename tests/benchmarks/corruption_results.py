"""Results of `silent_corruption`: the rules, the file that a run goes on from, the table. Files and NumPy only."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from genqual.errors import BadInput
from genqual.health.known_answer import rate_bounds
from tests.benchmarks.corruption_plan import AT_START, PLACES

FLOOR: Final = 1e-3
RANGES: Final = ("fp32 mantissa 0-11", "fp32 mantissa 12-22", "bf16 mantissa", "exponent, sign", "NaN or infinity")

Result = dict[str, Any]
Event = Mapping[str, Any]


@dataclass
class Rules:
    """What three rules say of the same events: equal bits, a tolerance, and that of a vendor's diagnostic (DCGM).

    `limit` is the tolerance of nrms, of an engine that promises no bits. `beside`: NaN, infinite, or off by more than
    FLOOR, of the same logits and products. A product with a known answer is exact whatever an engine promises.
    """

    limit: float
    by: str = ""  # the kind of the first event
    tolerance: bool = False
    beside: bool = False

    def take(self, events: Iterable[Event]) -> None:
        """Judge some more events of one fault."""
        for one in events:
            self.by = self.by or str(one["kind"])
            if one["kind"] == "logits":
                self.tolerance |= not float(one["nrms"]) <= self.limit
                self.beside |= not one["finite"] or not float(one["largest"]) <= FLOOR
            elif one["kind"] == "product":
                self.tolerance = True
                self.beside |= not abs(float(one["got"]) - float(one["expected"])) <= FLOOR

    @property
    def all(self) -> bool:
        """Whether no rule has anything more to find."""
        return bool(self.by) and self.tolerance and self.beside


class Store:
    """One JSON line a result, behind one line that says what was drawn. A torn last line is dropped."""

    def __init__(self, path: Path | None, plan: dict[str, Any]) -> None:
        self._path, self.results = path, list[Result]()
        if path is None:
            return
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        whole = [line for line in lines if line.endswith("\n")]
        if whole and json.loads(whole[0]) != plan:
            raise BadInput(f"{path}: holds results of {whole[0].strip()}, not of {json.dumps(plan)}; give another file")
        for line in whole[1:]:
            result = json.loads(line)
            self.results = [*_others(self.results, result), result]
        path.write_text("".join(whole) or json.dumps(plan) + "\n")

    def done(self, seconds: float) -> set[int]:
        """Numbers of the faults that need not be tried for `seconds`: found, or not found in as many."""
        faults = [one for one in self.results if "number" in one]
        enough = [one for one in faults if one["found"] or one.get("given_s", seconds) >= seconds * one["longer"]]
        return {int(one["number"]) for one in enough}

    def add(self, result: Result) -> None:
        """Keep one more, in place of an earlier one of the same fault; it is on disk before this returns."""
        self.results = [*_others(self.results, result), result]
        if self._path is not None:
            with self._path.open("a") as stream:
                stream.write(json.dumps(result) + "\n")


def _others(results: Sequence[Result], result: Result) -> list[Result]:
    number = result.get("number")
    return [one for one in results if number is None or one.get("number") != number]


def table(results: Sequence[Result]) -> str:
    """Markdown: each place by range of bits; each place and all with their bounds; clean runs."""
    faults = [one for one in results if "number" in one]
    lines = ["| place | bits | faults | found | at once | tolerance alone | NaN or off by 1e-3 |"]
    lines.append("|---|---|---|---|---|---|---|")
    for place in (*PLACES, AT_START):
        for bits in RANGES:
            some = [one for one in faults if one["place"] == place and one["bits"] == bits]
            if some:
                lines.append(f"| {place} | {bits} | {len(some)} | {' | '.join(_counts(some, str))} |")
    lines += ["", "| place | faults | found | at once | tolerance alone | NaN or off by 1e-3 |"]
    lines.append("|---|---|---|---|---|---|")
    struck = [one for one in faults if one["place"] != AT_START]
    groups = {place: [one for one in faults if one["place"] == place] for place in (*PLACES, AT_START)}
    for name, some in (groups | {"all but from the start": struck}).items():
        if some:
            lines.append(f"| {name} | {len(some)} | {' | '.join(_counts(some, partial(_share, of=len(some))))} |")
    return "\n".join([*lines, "", *_clean(results)])


def _counts(some: Sequence[Result], say: Callable[[int], str]) -> list[str]:
    """How many were found by each rule; a rule that cannot be asked says nothing."""
    told = []
    for rule in ("found", "first", "tolerance", "beside"):
        asked = [one[rule] for one in some if one[rule] is not None]
        told.append(say(sum(asked)) if asked else "")
    return told


def _share(found: int, of: int) -> str:
    low, high = rate_bounds(found, of)
    return f"{found} ({100 * low:.1f} to {100 * high:.1f} %)"


def _clean(results: Sequence[Result]) -> list[str]:
    """Between the faults, and of the engines that ran clean, all pieces of each: events, and how many there were."""
    between = [one for one in results if "number" in one and "clean_steps" in one]
    steps, events = (sum(one[name] for one in between) for name in ("clean_steps", "clean_events"))
    lines = [f"Clean runs between the faults: {events} events in {steps} steps."] if steps else []
    pieces: dict[tuple[str, str], list[Result]] = {}
    for one in results:
        if "clean" in one:
            pieces.setdefault((one["clean"], one["dtype"]), []).append(one)
    for (engine, dtype), some in pieces.items():
        whole = {name: sum(one[name] for one in some) for name in ("seconds", "events", "steps", "products")}
        high = rate_bounds(whole["events"], whole["steps"])[1]
        lines.append(
            f"Clean, {engine}, {dtype}, {whole['seconds']:.0f} s: {whole['events']} events in {whole['steps']} steps "
            f"and {whole['products']} products; at most {high:.2g} of steps at 95 %."
        )
    return lines
