"""A pytest plugin of the pinned build's runs: keeps every launch, and lets one of two builds be slower.

    PYTHONPATH=<the pinned tree>:<this folder> pytest -p observed ...

It changes nothing that the gate decides by. `GENQUAL_TEST_LAUNCHES` names a file that gets one JSON line a launch, also
of those that were rejected or of the build beside. `GENQUAL_TEST_SLOW_SIDE` says which build is given the slow engine:
`now`, the one under test; `then`, the one that is launched in turns with it; nothing: neither. Only what the ranks of a
case run is exchanged, so both builds keep their code and packages.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from genqual.engines.registry import engines
from genqual.gate.case_launches import CaseLaunches
from genqual.session import groups

SLOW: Final = "tests.benchmarks.slow_engine:SlowEager"
ENGINE: Final = "transformers"
SIDE: Final = os.environ.get("GENQUAL_TEST_SLOW_SIDE", "")
TREE: Final = Path.cwd()  # pytest is started in the pinned tree

_spec, _extend = engines()[ENGINE], CaseLaunches.extend
_other, _build_of = groups.Groups.other, groups.build_of
_lists: list[int] = []


def steps_of(replies: Sequence[Any]) -> dict[str, Any]:
    """What rules of others ask of a launch: its plain steps, seconds, and the clock's beside them."""
    if any("decode_times" not in reply.arrays for reply in replies):
        return {}
    plain = replies[0].arrays["decode_marks"][:, 1] == 0
    steps = np.min([reply.arrays["decode_times"][:, 0] for reply in replies], axis=0)[plain]
    clock = np.max([reply.arrays["decode_times"][:, 1:3].mean(axis=1) for reply in replies], axis=0)[plain]
    made = {"mean": steps.mean(), "min": steps.min(), "median": np.median(steps), "stddev": steps.std(ddof=1)}
    return {**{name: float(f"{value:.6g}") for name, value in made.items()}, "frozen": float(f"{np.median(clock):.6g}")}


def extend(self: CaseLaunches) -> Any:
    """As it is, and kept. `list`: which of the run's lists of launches, in the order in which they began."""
    steps: dict[str, Any] = {}
    seen = self.seen

    def both(replies: Sequence[Any]) -> None:
        if seen is not None:
            seen(replies)
        steps.update(steps_of(replies))

    if id(self) not in _lists:
        _lists.append(id(self))
    self.seen, start = both, time.monotonic()
    try:
        taken = _extend(self)
    finally:
        self.seen = seen
    kept = taken.metrics.get("tpot")
    line = {
        **{"at": round(time.time(), 1), "list": _lists.index(id(self))},
        "side": "then" if self.generator.plan.path else "now",
        **{"took_s": round(time.monotonic() - start, 2), "failed": taken.failed},
        "probes": {name: float(f"{value:.6g}") for name, value in taken.probes.items()},
        "step_s": steps,
        "launch": None if kept is None else _short(json.loads(kept.model_dump_json())),
    }
    with Path(os.environ["GENQUAL_TEST_LAUNCHES"]).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line, separators=(",", ":")) + "\n")
    return taken


def _short(value: Any) -> Any:
    """Numbers with six digits."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, list):
        return [_short(one) for one in value]
    return {name: _short(one) for name, one in value.items()} if isinstance(value, dict) else value


@contextlib.contextmanager
def _implementation(slow: bool) -> Iterator[None]:
    before = engines()[ENGINE]
    engines()[ENGINE] = replace(_spec, implementation=SLOW) if slow else _spec
    try:
        yield
    finally:
        engines()[ENGINE] = before


def other(self: Any, case: Any, build_name: str) -> Any:
    """The ranks of the build beside, slow or not whatever the build under test is."""
    with _implementation(SIDE == "then"):
        return _other(self, case, build_name)


def build_of(text: str, directory: Path) -> Any:
    """The build, and behind it the tree that has the slow engine."""
    made = _build_of(text, directory)
    return replace(made, path=(*made.path, str(TREE)))


CaseLaunches.extend = extend
groups.Groups.other = other
groups.build_of = build_of
if SIDE == "now":
    engines()[ENGINE] = replace(_spec, implementation=SLOW)
