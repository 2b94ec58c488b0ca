"""What a rank keeps, as digests: its weights, and the cache that a generation ends with. In ranks only.

A wrong bit of what is kept can vanish in the rounding of all that is computed from it, or wait for a token that no
prompt has. Its digest differs all the same.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch

from genqual import digest
from genqual.engines.hf.caches import NAMES, has_keys

Prints = dict[str, str]


def weights(engine: Any) -> str:
    """The digest of this rank's weights as they are stored now."""
    return str(engine.weight_hash())


@contextlib.contextmanager
def cache_of(engine: Any) -> Iterator[Prints]:
    """After a generation within: a digest of the keys and the values of each layer; empty where no cache is seen.

    The cache is caught where transformers' `generate` hands it to each pass, so that no pass is hooked or compiled
    anew.
    """
    prints: Prints = {}
    model: Any = getattr(engine, "model", None)
    right = getattr(model, "prepare_inputs_for_generation", None)  # not every engine generates by transformers
    if right is None:
        yield prints
        return
    seen: list[Any] = []
    before = vars(model).get("prepare_inputs_for_generation")

    @functools.wraps(right)
    def watched(*args: Any, **kwargs: Any) -> Any:
        seen[:] = [kwargs[name] for name in NAMES if kwargs.get(name) is not None]
        return right(*args, **kwargs)

    model.prepare_inputs_for_generation = watched
    try:
        yield prints
    finally:
        del model.prepare_inputs_for_generation
        if before is not None:
            model.prepare_inputs_for_generation = before
    for cache in seen:
        for number, layer in enumerate(getattr(cache, "layers", None) or ()):
            if has_keys(layer):
                prints[f"keys of layer {number}"] = _print(layer.keys)
                prints[f"values of layer {number}"] = _print(layer.values)


def _print(part: torch.Tensor) -> str:
    raw = part.detach().to("cpu").contiguous().view(torch.uint8).numpy()
    return digest.of_bytes(raw.tobytes())
