"""Products with known answers as tensors, on any device. Imports torch: for ranks and processes of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch

from genqual.faults.injectors.flip_bit import flip
from genqual.health.known_answer import TILES, Tile, WrongProduct, factors, first_wrong, product

DTYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_REPEATS: Final = 16  # after a wrong product: does it come again?


class Products:
    """Tiles of one dtype on one device, their factors as tensors and the exact products beside them."""

    def __init__(
        self, dtype: str, seed: int, tiles: Sequence[Tile] | None = None, device: str | torch.device = "cpu"
    ) -> None:
        self.dtype = dtype
        self._tiles = []
        for tile in TILES[dtype] if tiles is None else tiles:
            left, right = factors(tile, dtype, seed)
            exact = product(left, right)
            a, b, expected = (torch.from_numpy(part).to(DTYPES[dtype]).to(device) for part in (left, right, exact))
            self._tiles.append((tile, a, b, exact, expected))
        self.count = 0

    def __len__(self) -> int:
        return len(self._tiles)

    def run(self, inject: int | None = None, bit: int | None = None, element: int | None = None) -> WrongProduct | None:
        """The next product; the event where it is wrong.

        `inject` is the number of a product that is made wrong for a test: by one, or by its bit number `bit`, in its
        number `element` (its middle where None).
        """
        tile, left, right, exact, expected = self._tiles[self.count % len(self._tiles)]
        number, self.count = self.count, self.count + 1
        got = torch.mm(left, right)
        if number == inject:
            index = divmod(got.numel() // 2 if element is None else element % got.numel(), got.shape[1])
            if bit is None:
                got[index] += 1
            else:
                flip(got, index, bit)
        if torch.equal(got, expected):
            return None
        where = first_wrong(got.cpu().to(torch.float64).numpy(), exact)
        if where is None:  # a NaN that compares unequal to itself would be found; equal numbers are no event
            return None
        row, column, wrong = where
        again = sum(not torch.equal(torch.mm(left, right), expected) for _ in range(_REPEATS))
        value = float(got[row, column])
        return WrongProduct(
            *(tile.name, self.dtype, number, row, column, value, int(exact[row, column]), wrong, again, _REPEATS)
        )
