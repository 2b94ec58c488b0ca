"""The record of runs: a folder a hardware class, a file an occasion, one line of JSON a run; nothing is rewritten."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from genqual.gate.drift import OCCASION_S

PLACE: Final = Path(__file__).resolve().parents[3] / "docs" / "evidence" / "gate-runs"
VERSION: Final = 1  # of the lines

WANTED: Final = {"same": 100, "slower": 50, "faster": 20, "paired": 20}
"""Runs by kind that the promise is about. `same`: the unchanged tree. `slower`: work by the tolerance of the baseline's
entry more. `faster`: the unchanged tree, against a baseline of a build with as much more work. `paired`: work by 3 %
more, which stage one leaves open."""

Run = dict[str, Any]


def append(path: Path, line: Run) -> None:
    """Add one run, durable before this returns; after a line that a kill cut short, on a line of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as stream:
        size = stream.seek(0, os.SEEK_END)
        whole = True
        if size:
            stream.seek(size - 1)
            whole = stream.read(1) == b"\n"
        text = json.dumps({"version": VERSION, **line}, separators=(",", ":")).encode() + b"\n"
        stream.write(text if whole else b"\n" + text)
        stream.flush()
        os.fsync(stream.fileno())


def read(path: Path) -> list[Run]:
    """Every whole line. What a kill cut short is left out; it is no JSON, for its last brace is missing."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            one = json.loads(line)
        except json.JSONDecodeError:
            continue
        if one["version"] != VERSION:
            raise ValueError(f"{path}: a line of version {one['version']}, and this reads {VERSION}")
        found.append(one)
    return found


def runs(place: Path = PLACE) -> list[Run]:
    """All runs of all classes, in the order of their files' names."""
    return [one for path in sorted(place.glob("*/*.jsonl"), key=lambda found: found.name) for one in read(path)]


def occasions(found: Sequence[Run]) -> int:
    """On how many occasions these runs were made: those of one host less than a quarter of an hour apart are of one."""
    count = 0
    last: dict[str, float] = {}
    for one in sorted(found, key=lambda run: float(run["at"])):
        if one["host"] not in last or one["at"] - one["seconds"]["whole"] - last[one["host"]] > OCCASION_S:
            count += 1
        last[one["host"]] = float(one["at"])
    return count


def order(start: int, kinds: Sequence[str]) -> Iterator[str]:
    """Kinds in a random order that is always the same, from the `start`-th on: each block of 19 has them in proportion.

    An occasion that is cut short has some of each, and the next one goes on where it ended.
    """
    block = start // _BLOCK
    skip = start % _BLOCK
    while True:
        turn = [kind for kind, count in WANTED.items() for _ in range(count // 10)]
        random.Random(f"gate-runs {block}").shuffle(turn)
        yield from (kind for kind in turn[skip:] if kind in kinds)
        block, skip = block + 1, 0


_BLOCK: Final = sum(count // 10 for count in WANTED.values())
