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


def leave_out_torchao() -> None:
    """Keep transformers from importing torchao with its model classes, which takes as long as half of torch.

    Only a checkpoint that torchao quantised needs it there; what genqual quantises, it does through torchao itself.
    """
    for module in ("transformers.utils.import_utils", "transformers.utils"):
        importlib.import_module(module).is_torchao_available = lambda *_, **__: False  # type: ignore[attr-defined]
