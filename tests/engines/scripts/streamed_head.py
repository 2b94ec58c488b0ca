"""Run as a process on a checkpoint, with options as JSON: bytes of its head, and what scoring adds to memory.

Eight rows in bf16, a step each: as a batch with a cache, then in one pass.
"""

from __future__ import annotations

import json
import sys

import numpy as np

from genqual.engines.base import LoadRequest, TokenBatch
from genqual.engines.hf.accelerate import Accelerate
from genqual.engines.projection import signs
from genqual.models.registry import resolve

engine = Accelerate()
engine.load(LoadRequest(resolve(sys.argv[1]), "bf16", "cpu", 0, 1, 0, 1, 1, json.loads(sys.argv[2])))
head = engine.model.get_output_embeddings().weight
signs(head.shape[0])  # kept from here on
batch, forced = TokenBatch.of([[5, 6, 7]] * 8), np.full((8, 2), 9)
print(head.numel() * head.element_size())
for scored in (engine.score, engine.score_prefill):
    before = engine.memory(reset=True).current
    scored(batch, forced)
    print(engine.memory().peak - before)
