"""A program for `--engine external` that rounds activations as a checkpoint declares them, or with a fault. NumPy.

`python narrow_engine.py [FACTOR]`: what is computed is genqual's own emulation in the checkpoint's precision, whatever
dtype it is asked for, as servers do; with FACTOR every static or dynamic scale of one layer is that much too large.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np

from genqual.conformance import emulation as emulations
from genqual.conformance.oracle.core import F64
from genqual.models import weights
from genqual.models.declared_inputs import declared
from genqual.models.registry import resolve

LAYER = "model.layers.0.mlp.down_proj"


def say(**what: Any) -> None:
    """One answer."""
    print(json.dumps(what), flush=True)


def engine(place: str, factor: float) -> Any:
    """The emulation; what its scale has wrong is that numbers come out `factor` times as large."""
    spec = resolve(place)
    inputs = declared(spec)
    (precision,) = {how.precision for how in inputs.values()}
    made = emulations.emulation(weights.config(spec), weights.read(spec), precision, inputs)
    mlp: Any = made.model.blocks[0].mlp
    rounds = mlp.how.inputs[LAYER]

    def scaled(x: F64) -> F64:
        return np.asarray(factor * rounds(x))

    mlp.how.inputs[LAYER] = scaled
    return made


def top_of(logits: F64, count: int) -> list[list[float]]:
    """The best tokens, with their log-probabilities."""
    below = logits - logits.max()
    found = below - np.log(np.exp(below).sum())
    return [[int(token), float(found[token])] for token in np.argsort(-found, kind="stable")[:count]]


def generate(model: Any, prompts: list[list[int]], new_tokens: int, top: int) -> None:
    """Greedy, all rows in step."""
    start, caches = time.perf_counter(), [model.cache() for _ in prompts]
    ids = [np.array(row, dtype=np.int64) for row in prompts]
    for _ in range(new_tokens):
        logits = [model.head(model.states(row, cache)[-1:])[0] for row, cache in zip(ids, caches, strict=True)]
        ids = [np.array([int(one.argmax())]) for one in logits]
        more = {"top": [top_of(one, top) for one in logits]} if top else {}
        say(tokens=[int(row[0]) for row in ids], s=time.perf_counter() - start, **more)


def main() -> None:
    """Answer one request a line until the input ends."""
    factor, model = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0, None
    for line in sys.stdin:
        request = json.loads(line)
        if request["method"] == "load":
            model = engine(request["model"], factor)
            say(protocol=1, name="narrow", version="1", top=5)
        else:
            generate(model, request["prompts"], request["new_tokens"], request.get("top", 0))


if __name__ == "__main__":
    main()
