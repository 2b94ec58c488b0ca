"""Compare two ways of doing one thing on a host that is never quiet. Pure: the standard library only."""

from __future__ import annotations

import json
import math
import shutil
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

Arm = Callable[[], float]
"""Does the thing once and says how many seconds it took."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """Median of `count` ratios ours / other, with a distribution-free interval that holds it at `confidence`."""

    median: float
    low: float
    high: float
    confidence: float
    count: int

    def within(self, tolerance: float) -> bool:
        """Whether the whole interval lies within 1 +- `tolerance`."""
        return 1.0 - tolerance <= self.low and self.high <= 1.0 + tolerance

    def __str__(self) -> str:
        return f"{self.median:.4f} [{self.low:.4f}, {self.high:.4f}]"


def alternate(ours: Arm, other: Arm, rounds: int) -> list[float]:
    """Run other, ours, other, ours, ..., other; each of ours divided by the geometric mean of the two around it.

    A host that grows slower at a steady rate then cancels, which pairs of neighbours alone would not do.
    """
    before, ratios = other(), []
    for _ in range(rounds):
        mine = ours()
        after = other()
        ratios.append(mine / math.sqrt(before * after))
        before = after
    return ratios


def summarise(ratios: Sequence[float], confidence: float = 0.99) -> Ratio:
    """The median and its interval from order statistics: as many values outside on each side as a fair coin allows.

    Raises ValueError when `ratios` are too few for the confidence (8 for 99 %).
    """
    values, count = sorted(ratios), len(ratios)
    cut, tail = 0, 0.5**count  # P(at most `cut` of `count` values lie below the true median)
    if 2 * tail > 1.0 - confidence:
        raise ValueError(f"{count} ratios cannot hold a median at {confidence:.0%}; run more rounds")
    while 2 * (tail + math.comb(count, cut + 1) * 0.5**count) <= 1.0 - confidence:
        cut += 1
        tail += math.comb(count, cut) * 0.5**count
    return Ratio(statistics.median(values), values[cut], values[-1 - cut], confidence, count)


class Progress:
    """One line that is rewritten on a terminal, and nothing elsewhere: a log is not for what is soon out of date."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._width = 0

    def show(self, text: str) -> None:
        """Write `text` over the line before. Cut to the terminal, because a line that wraps cannot be rewritten."""
        if self._stream.isatty():
            text = text[: shutil.get_terminal_size().columns - 1]
            self._stream.write(f"\r{text:<{self._width}}")
            self._stream.flush()
            self._width = len(text)

    def clear(self) -> None:
        """Leave an empty line for the result."""
        if self._width:
            self._stream.write("\r" + " " * self._width + "\r")
            self._stream.flush()
            self._width = 0


def so_far(ratios: Sequence[float]) -> str:
    """The ratio as far as it is known: its interval from 8 values on, before that the median alone."""
    try:
        return str(summarise(ratios))
    except ValueError:
        return f"{statistics.median(ratios):.4f}" if ratios else "warming up"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Plain text, the first row being the head."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def save(path: Path | None, data: dict[str, Any]) -> None:
    """Write `data` as JSON where asked."""
    if path is not None:
        path.write_text(json.dumps(data, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def plain(ratio: Ratio) -> dict[str, Any]:
    return asdict(ratio)
