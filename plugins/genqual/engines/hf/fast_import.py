"""Import big packages quickly, and keep the garbage collector off them. Standard library only."""

from __future__ import annotations

import contextlib
import gc
import importlib
from collections.abc import Iterator


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Import big packages in this block: a fifth faster, because nothing of theirs is garbage and none is looked for.

    What was imported is then put out of the collector's sight, so that no collection walks it within a timed step.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()


def leave_out_unused() -> None:
    """Keep transformers from importing torchao and SciPy with its model classes.

    torchao takes as long as half of torch, SciPy 0.3 s of 2.9. torchao is needed there by what it quantised only; what
    genqual quantises, it does through torchao itself. SciPy is needed by the losses of object detection only.
    """
    for module in ("transformers.utils.import_utils", "transformers.utils"):
        for name in ("is_torchao_available", "is_scipy_available"):
            setattr(importlib.import_module(module), name, lambda *_, **__: False)
