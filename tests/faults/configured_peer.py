"""Torch, in a process of its own: logits of each embedded model with each field ignored, and with the fault taken out.

`python -m tests.faults.configured_peer OUT MODEL...` writes OUT/MODEL.npz: one array (tokens, vocabulary) a field,
"right" before any fault, "after" when the last was taken out.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from genqual.engines.base import LoadRequest
from genqual.engines.hf.eager import TransformersEager
from genqual.faults.ignored_fields import ignoring
from genqual.faults.injectors.configured import ignored
from genqual.models import embedded
from genqual.models.registry import resolve

IDS = [int(i) for i in np.random.default_rng(5).integers(3, 259, 40)]


def said(engine: Any) -> np.ndarray[Any, Any]:
    """Logits of one pass, (tokens, vocabulary)."""
    with torch.no_grad():
        logits = engine.model(input_ids=torch.tensor([IDS]), use_cache=False).logits[0]
    return np.asarray(logits.double().numpy())


def main(out: Path, models: list[str]) -> None:
    for name in models:
        engine = TransformersEager()
        engine.load(LoadRequest(resolve(name), "fp32", "cpu", 0, 1, 0, 1, 1, {"attn_implementation": "eager"}))
        before = engine.weight_hash()
        found = {"right": said(engine)}
        for field in ignoring(embedded.config(name)):
            undo = ignored(engine, 0, field=field)
            found[field] = said(engine)
            undo()
        found["after"] = said(engine)
        assert engine.weight_hash() == before
        np.savez(out / f"{name}.npz", **found)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
