"""How fast this host is at what a reference is made of, measured for a third of a second. NumPy only."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np

from genqual.conformance.references.cost import Rates

_FILE: Final = 1 << 26  # bytes of a checkpoint that are read, at most
_SIDE: Final = 640
_NUMBERS: Final = 1 << 22  # 32 MiB in float64: beyond the caches of a core


def measured(file: Path | None = None) -> Rates:
    """The rates of this moment; `file` is read from where the checkpoint lies. The best of a few samples each."""
    random = np.random.default_rng(0)
    wide = random.standard_normal((_SIDE, _SIDE))
    narrow = wide.astype(np.float32)
    matrix = random.standard_normal((_NUMBERS // 1024, 1024))
    single = matrix.astype(np.float32)
    vector, small = matrix[0], matrix[:8, :64]
    flops = 2.0 * _SIDE**3
    return Rates(
        product64=flops / _best(lambda: wide @ wide),
        product32=flops / _best(lambda: narrow @ narrow),
        memory=matrix.nbytes / _best(lambda: matrix @ vector),
        widened=single.size / _best(lambda: single.astype(np.float64)),
        file=_read_rate(file),
        call=_best(lambda: small * small + small) / 2,
    )


def _best(call: Callable[[], object], samples: int = 4) -> float:
    """Seconds of the quickest of a few calls, after one that warms up."""
    call()
    found = []
    for _ in range(samples):
        started = time.perf_counter()
        call()
        found.append(time.perf_counter() - started)
    return max(min(found), 1e-9)


def _read_rate(file: Path | None) -> float:
    """Bytes a second of the beginning of `file`; a gigabyte where there is none to read."""
    if file is None or not file.is_file():
        return 1e9
    with file.open("rb", buffering=0) as stream:
        started = time.perf_counter()
        count = len(stream.read(_FILE))
        return max(1, count) / max(time.perf_counter() - started, 1e-6)
