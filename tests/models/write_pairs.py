"""A run to be killed: `python write_pairs.py FILE` appends pairs until it is, saying each number once it is flushed."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

from genqual.models.dataset import PairWriter

with PairWriter(Path(sys.argv[1]), "run 1") as writer:
    for number in itertools.count(writer.next_index):
        writer.append(f"prompt {number} é", [number, 1], [2, 3], "text " * 50)
        print(number, flush=True)
