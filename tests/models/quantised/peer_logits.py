"""Asked by asking.py in a process of its own: the logits of checkpoints, by transformers, in one dtype.

`python peer_logits.py QUESTIONS OUT`: QUESTIONS is JSON, a list of {"path", "dtype", "rows", "forced"}; OUT becomes an
npz with the logits (steps, rows, vocabulary) of each, by its number. In int8-dynamic and fp8 activations are rounded as
the checkpoint declares, by the engine's emulation; "attention" is eager unless it is given, "arithmetic" bf16. What
transformers cannot widen here is dequantised by genqual: with the package compressed-tensors it can widen that format,
without it not.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from genqual.engines.hf import expert_rounding, input_rounding
from genqual.errors import Unsupported
from genqual.models.declared_inputs import declared
from genqual.models.dense import dense
from genqual.models.load import load
from genqual.models.registry import resolve

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@torch.no_grad()
def logits(question: dict[str, Any]) -> np.ndarray[Any, Any]:
    """What the model says before each of the forced tokens of each row."""
    spec, precision = resolve(question["path"]), question["dtype"]
    attention, dtype = (
        question.get("attention", "eager"),
        DTYPES.get(question.get("arithmetic", precision), torch.bfloat16),
    )
    try:
        model = load(spec, dtype, attn_implementation=attention)
    except Unsupported:
        spec = dense(spec)
        model = load(spec, dtype, attn_implementation=attention)
    if precision in input_rounding.PRECISIONS:
        others = expert_rounding.apply(model, declared(spec), precision)
        model = input_rounding.apply(model, others, precision)
    found = []
    for row, forced in zip(question["rows"], question["forced"], strict=True):
        said = model(input_ids=torch.tensor([row + forced[:-1]]), use_cache=False).logits
        found.append(said[0, len(row) - 1 :].float().numpy())
    return np.stack(found, axis=1)


def main() -> None:
    """The command line."""
    torch.set_num_threads(1)
    questions = json.loads(Path(sys.argv[1]).read_text())
    found: dict[str, Any] = {str(index): logits(question) for index, question in enumerate(questions)}
    np.savez(sys.argv[2], **found)


if __name__ == "__main__":
    main()
