"""Prompts that no earlier request of the session began with: for engines whose cache outlives a request. NumPy only.

A server keeps the keys and values of what it has read. A prompt that begins as an earlier one did is answered from
there, and its time to first token is not that of a prefill.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from genqual.errors import BadInput
from genqual.models.embedded import BYTE_OFFSET

_NUMBERS: Final = 1 << 40  # how many prompts of a seed are told apart by their first tokens


def fresh_row(vocabulary: int, length: int, seed: str, number: int) -> list[int]:
    """Prompt `number` of `seed`: `length` token ids in [3, vocabulary), the same on every machine.

    Two numbers differ in the first token, if they are less than vocabulary - 3 apart; if not, in the second or, far
    apart, in the third. Short prompts and small vocabularies have fewer: then numbers repeat. Raises BadInput on an
    empty range.
    """
    size = vocabulary - BYTE_OFFSET
    if size < 1 or length < 1 or number < 0:
        raise BadInput(f"prompt {number} of vocabulary {vocabulary} and length {length}: there is nothing to draw from")
    stream = hashlib.shake_128(f"genqual/fresh/{seed}/{number}".encode()).digest(4 * length)
    row = np.frombuffer(stream, dtype="<u4") % np.uint32(size)
    # The number's digits stand first. Each is shifted by what the digits before it are, so that two prompts share no
    # run of tokens further in either.
    left, place, reach = number, 0, 1
    while place < length and (reach < _NUMBERS or left) and size > 1:
        before = hashlib.shake_128(f"genqual/fresh/{seed}/{place}/{number % reach}".encode()).digest(4)
        left, digit = divmod(left, size)
        row[place] = (digit + int.from_bytes(before, "little")) % size
        place, reach = place + 1, reach * size
    return [int(token) + BYTE_OFFSET for token in row]


@dataclass
class FreshPrompts:
    """The prompts of one process of a session, each given out once. All follow from `seed`, in the order asked for.

    Processes of one session (`worker` of `workers`) count in turns, so that none repeats another's.
    """

    seed: str = field(default_factory=lambda: secrets.token_hex(8))
    worker: int = 0
    workers: int = 1
    used: int = 0

    @classmethod
    def of_process(cls, seed: str) -> FreshPrompts:
        """Those of this process of a session: xdist's workers take turns."""
        worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
        workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
        return cls(seed, worker % workers, workers)

    def take(self, count: int) -> list[int]:
        """The numbers of the next `count` prompts."""
        first, self.used = self.used, self.used + count
        return [index * self.workers + self.worker for index in range(first, self.used)]

    def rows(self, vocabulary: int, rows: int, length: int) -> list[list[int]]:
        """The next `rows` prompts of `length` tokens."""
        return [fresh_row(vocabulary, length, self.seed, number) for number in self.take(rows)]
