"""256 seeded +-1 projections of a row of logits: small enough to commit, blind to no column. Pure: NumPy only."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

COUNT: Final = 256
TOP: Final = 16


@lru_cache(maxsize=2)
def signs(vocabulary: int) -> NDArray[np.float64]:
    """The +-1 matrix, (vocabulary, 256), from SHAKE-128 of the vocabulary size: the same on every machine."""
    stream = hashlib.shake_128(f"genqual/projection/{vocabulary}".encode()).digest(vocabulary * COUNT // 8)
    bits = np.unpackbits(np.frombuffer(stream, dtype=np.uint8)).reshape(vocabulary, COUNT)
    made = bits.astype(np.float64)
    made *= 2.0  # in place: of a vocabulary of 250,000 the matrix takes half a gigabyte
    made -= 1.0
    return made


def project(logits: NDArray[np.floating]) -> NDArray[np.float32]:
    """Project centred `logits` (..., vocabulary) to (..., 256) float32.

    Scaled by 1/sqrt(vocabulary), so that the mean square of the projections estimates the variance of the logits and
    the mean square of a difference of projections estimates the mean square of the centred logit error, without bias.
    """
    rows = np.asarray(logits, dtype=np.float64)
    centred = rows - rows.mean(axis=-1, keepdims=True)
    return np.asarray(centred @ signs(rows.shape[-1]) / np.sqrt(rows.shape[-1]), dtype=np.float32)
