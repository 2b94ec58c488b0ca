"""The same generation on one core after the other, or on a card, as digests. In ranks, by `invoke`."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from genqual import digest
from genqual.cases import Json
from genqual.engines.base import TokenBatch
from genqual.health.places_in_rank import standing
from genqual.health.prints_in_rank import step_prints

I64 = NDArray[np.int64]


def by_core(engine: Any, *, ids: I64, mask: I64, steps: int, cores: Sequence[int]) -> dict[str, Json]:
    """`prints`: of each of `cores`, in order, a SHA-256 over checksums of each step's logits and the tokens.

    Without `cores` one, of this rank's card. One thread computes, so that all of it is that core's. `of` says by what
    software: prints of other software, or of other instructions, need not be the same.
    """
    batch, threads = TokenBatch(np.array(ids), np.array(mask)), torch.get_num_threads()
    places: list[contextlib.AbstractContextManager[None]] = [standing([core]) for core in cores]
    prints: list[Json] = []
    torch.set_num_threads(1)
    try:
        for place in places or [contextlib.nullcontext()]:
            with place, step_prints(engine) as by_step:
                tokens = engine.generate(batch, steps).tokens
            prints.append(digest.of_text(" ".join([*by_step, *map(str, tokens.reshape(-1).tolist())])))
    finally:
        torch.set_num_threads(threads)
    return {"prints": prints, "of": _software(str(engine.device))}


def _software(device: str) -> str:
    """What numbers may depend on besides the processor or card itself."""
    kind = torch.backends.cpu.get_cpu_capability() if device == "cpu" else getattr(torch, device).get_device_name()
    return f"torch {torch.__version__}, transformers {transformers.__version__}, {kind}"
