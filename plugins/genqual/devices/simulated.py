"""Gaudi cards that are not there: `pytest -m hpu --simulate`. Says what a stand-in would be; starts nothing.

The stand-in is a folder with a package `habana_frameworks` that computes on the CPU; ranks find it on their PYTHONPATH.
What it shows is marked: the class of its hardware, and the provenance of every record.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from genqual.devices.cards import Card, Scan
from genqual.errors import BadInput
from genqual.paths import data_dir

VARIABLE: Final = "GENQUAL_SIMULATED_HPU"  # the folder; set by --simulate, inherited by xdist workers
CARDS: Final = "GENQUAL_SIMULATED_CARDS"  # how many, 8 unless set
PREFIX: Final = "simulated-"  # of the hardware's class


def switch_on() -> None:
    """Simulate from now on. Raises BadInput where there is no stand-in: only a checkout has one."""
    lies = [str(place) for place in _places() if place.is_dir()] or [str(_places()[0])]
    folder = os.environ.get(VARIABLE) or lies[0]
    if not (Path(folder) / "habana_frameworks").is_dir():
        raise BadInput(
            f"--simulate: {folder} holds no stand-in for Habana's packages; it comes with a checkout of genqual, in "
            f"tests/simulated_hpu (another place: ${VARIABLE})"
        )
    os.environ[VARIABLE] = folder


def _places() -> tuple[Path, ...]:
    """Where a stand-in may lie: in the checkout this genqual runs from, or in the one that pytest was started in."""
    return tuple(root / "tests" / "simulated_hpu" for root in (data_dir("suites").parent, Path.cwd()))


def folder() -> str | None:
    """Where the stand-in lies, or None: the cards are real."""
    return os.environ.get(VARIABLE) or None


def scan() -> Scan:
    """The simulated cards."""
    count = os.environ.get(CARDS, "8")
    if not count.isdecimal() or not 1 <= int(count) <= 8:
        return Scan((), f"{CARDS}={count}", (f"{CARDS} must be 1 to 8",))
    cards = tuple(
        Card(number, "HL-225", memory_bytes=96 * 2**30, bus=f"0000:{number:02x}:00.0") for number in range(int(count))
    )
    return Scan(cards, f"--simulate, {CARDS}={count}")


def environment(folder: str) -> dict[str, str]:
    """What makes a rank find the stand-in before anything else."""
    rest = os.environ.get("PYTHONPATH", "")
    return {"PYTHONPATH": f"{folder}{os.pathsep}{rest}" if rest else folder}
