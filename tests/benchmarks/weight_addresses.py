"""At which addresses do the same weights give other bits? Products of random matrices, each placed at offsets of 64.

    python -m tests.benchmarks.weight_addresses

torch maps weights from a safetensors file at any multiple of 8 bytes, where an allocator places them at multiples of 16
or 64. "Offloaded weights give the same bits" (docs/judge.md) depends on it. Nothing is timed.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch

OFFSETS: Final = (4, 8, 16, 24, 32, 40, 48, 56)
ROWS: Final = (1, 2, 8)
MATRICES: Final = 60


def placed(weights: torch.Tensor, offset: int) -> torch.Tensor:
    """The same float32 numbers, `offset` bytes behind a multiple of 64."""
    size = weights.numel() * 4
    room = np.zeros(size + 128, dtype=np.uint8)
    start = -room.ctypes.data % 64 + offset
    array = room[start : start + size].view(np.float32).reshape(tuple(weights.shape))
    array[:] = weights.numpy()
    return torch.from_numpy(array)


def main() -> None:
    """Print, by offset, of how many matrices the product differs in any bit, for each count of rows."""
    torch.set_num_threads(1)
    random = torch.Generator().manual_seed(0)
    other = {(offset, rows): 0 for offset in OFFSETS for rows in ROWS}
    for _ in range(MATRICES):
        wide, deep = (8 * int(torch.randint(2, 50, (1,), generator=random)) for _ in range(2))
        weights = torch.randn(wide, deep, generator=random)
        for rows in ROWS:
            given = torch.randn(rows, deep, generator=random)
            right = torch.nn.functional.linear(given, placed(weights, 0))
            for offset in OFFSETS:
                found = torch.nn.functional.linear(given, placed(weights, offset))
                other[offset, rows] += not torch.equal(right, found)
    print(f"torch {torch.__version__}, fp32: matrices of {MATRICES} whose product has other bits")
    for offset in OFFSETS:
        print(f"{offset:>3} bytes off: " + ", ".join(f"{other[offset, rows]} with {rows} row(s)" for rows in ROWS))


if __name__ == "__main__":
    main()
