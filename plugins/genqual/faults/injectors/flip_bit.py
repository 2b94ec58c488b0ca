"""One bit of one number of a tensor, in place. Imports torch alone."""

from __future__ import annotations

from typing import Final

import torch

NAN: Final = -1
INFINITY: Final = -2
"""Bits that there are not: the number itself becomes NaN or infinite."""

_WHOLE: Final = {4: torch.int32, 2: torch.int16, 1: torch.int8}


def flip(tensor: torch.Tensor, index: tuple[int, ...], bit: int) -> None:
    """Turn `bit` (0 is the lowest) of `tensor[index]` over, or write NAN or INFINITY.

    Raises ValueError on a bit that the dtype does not have.
    """
    if bit in (NAN, INFINITY):
        tensor[index] = torch.nan if bit == NAN else torch.inf
        return
    width = 8 * tensor.element_size()
    if not 0 <= bit < width:
        raise ValueError(f"bit {bit}: {tensor.dtype} has bits 0 to {width - 1}")
    # The highest bit is the sign of the integer that stands for the number.
    mask = (1 << bit) - (1 << width if bit == width - 1 else 0)
    raw = tensor[index].reshape(1).clone().view(_WHOLE[tensor.element_size()])
    tensor[index] = (raw ^ mask).view(tensor.dtype)[0]
