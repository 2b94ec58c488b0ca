"""Which bit of what is flipped when: the faults of `silent_corruption`, drawn by a seed. Pure: NumPy only."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from genqual.cases import Json
from genqual.faults.injectors.flip_bit import INFINITY, NAN

FLIPS: Final = "genqual.faults.injectors.flips"
PLACES: Final = ("weight", "cache", "activation", "collective", "tile")
AT_START: Final = "weight, from the start"
BITS: Final = {"fp32": 32, "bf16": 16}
PARTS: Final = ("mlp_out", "mlp_in", "attention_in", "attention_out")
EVERY: Final = {
    **dict.fromkeys(("weight", "cache", "activation"), (8, 512)),
    "collective": (8, 128),  # two ranks on two busy cores make a few passes a second only
    "tile": (100, 5_000),
}
"""Forward passes (of tiles: products) from one strike to the next: drawn in between, evenly in the logarithm."""
ONE_TILE, TILES = PLACES.index("tile"), 100_000
"""The number of the tile that is one in so many products."""
START: Final = 1_000_000
"""The first number of a weight that is wrong from the start."""
RAREST: Final = 5
LONGER: Final = 15


@dataclass(frozen=True, slots=True)
class Flip:
    """One fault. `every` is how many passes (products) there are to one strike; `bit` -1 is NaN, -2 infinity."""

    number: int
    place: str
    dtype: str
    bit: int
    every: int
    element: int
    params: dict[str, Json] = field(default_factory=dict)
    longer: int = 1  # times the seconds that a fault is given

    @property
    def group(self) -> tuple[str, int, str]:
        """(engine, ranks, dtype) of the processes that it is put into; no engine for a tile."""
        if self.place == "tile":
            return "", 1, self.dtype
        return ("transformers-tp", 2, self.dtype) if self.place == "collective" else ("transformers", 1, self.dtype)

    @property
    def entry(self) -> str:
        """The injector, for `Generator.fault`."""
        return f"{FLIPS}:{self.place if self.place in PLACES else 'weight'}"

    @property
    def bits(self) -> str:
        """The range of its bit."""
        if self.bit < 0:
            return "NaN or infinity"
        mantissa = {"fp32": 23, "bf16": 7}[self.dtype]
        if self.bit >= mantissa:
            return "exponent, sign"
        return "bf16 mantissa" if self.dtype == "bf16" else f"fp32 mantissa {'12-22' if self.bit > 11 else '0-11'}"


def draw(faults: int, seed: int) -> list[Flip]:
    """`faults` flips, as many of each place, half in each dtype, every bit as often; one of a hundred NaN or infinity.

    After them, a tenth as many weights that are wrong before the first run. One product in 100,000 is among the tiles.
    Fewer are the first of more; only which five are the rarest, and are given longer, depends on how many there are.
    """
    drawn = [_flip(number, seed) for number in range(faults)]
    rarity = [one.every / EVERY[one.place][1] for one in drawn]
    rarest = set(np.argsort(rarity, kind="stable")[-RAREST:].tolist())
    drawn = [replace(one, longer=LONGER) if one.number in rarest else one for one in drawn]
    return drawn + [_flip(START + number, seed) for number in range(faults // 10)]


def _flip(number: int, seed: int) -> Flip:
    place, turn = (AT_START, number - START) if number >= START else (PLACES[number % len(PLACES)], number // 5)
    dtype, random = tuple(BITS)[turn % 2], np.random.default_rng([seed, number])
    order = np.random.default_rng([seed, (*PLACES, AT_START).index(place), turn % 2, START]).permutation(BITS[dtype])
    bit = int(order[turn // 2 % BITS[dtype]])
    if number == np.random.default_rng([seed, number // 100, START]).integers(100) + number // 100 * 100:
        bit = (NAN, INFINITY)[number // 100 % 2]
    low, high = EVERY.get(place, (1, 1))
    every = round(float(np.exp(random.uniform(np.log(low), np.log(high)))))
    if number == ONE_TILE:
        every = TILES
    return _with_params(Flip(number, place, dtype, bit, every, int(random.integers(1 << 30))), random)


def _with_params(flip: Flip, random: np.random.Generator) -> Flip:
    """With the arguments of its injector: part, layer, rank, first pass."""
    if flip.place == "tile":
        return flip
    params: dict[str, Json] = {"bit": flip.bit, "element": flip.element, "layer": int(random.integers(2))}
    params["after"] = 0 if flip.place == AT_START else int(random.integers(2 * flip.every))
    if flip.place not in ("weight", AT_START):
        params["every"] = flip.every
    if flip.place == "cache":
        params["what"] = ("keys", "values")[int(random.integers(2))]
    elif flip.place == "collective":
        params |= {"part": ("mlp_out", "attention_out")[int(random.integers(2))], "on_rank": int(random.integers(2))}
    else:
        parts = (*PARTS, "embedding") if flip.place == "weight" else PARTS
        params["part"] = parts[int(random.integers(len(parts)))]
    return replace(flip, params=params)
