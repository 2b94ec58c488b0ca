"""bloom-tiny in bf16, plain transformers, with its own ALiBi and with the vendor's: nrms over the envelope, as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from optimum.habana.transformers.models.bloom.modeling_bloom import gaudi_bloom_build_alibi_tensor
from transformers.models.bloom.modeling_bloom import BloomModel

from genqual.conformance.references import file
from genqual.conformance.tolerance import cell_errors
from genqual.engines.base import TokenBatch
from genqual.engines.hf.score_recorder import ScoreRecorder
from genqual.models.build import build
from genqual.models.registry import resolve

ROOT = Path(__file__).resolve().parents[3]


def vendors(self: Any, attention_mask: torch.Tensor, num_heads: int, dtype: torch.dtype) -> torch.Tensor:
    """Biases by the column, whatever the mask says. The vendor gives them for one row, alike for all."""
    made: torch.Tensor = gaudi_bloom_build_alibi_tensor(attention_mask, num_heads, dtype, False)
    return made


def main() -> None:
    torch.set_num_threads(1)
    reference = file.read(ROOT / "baselines/references/bloom-tiny")
    model = build(resolve("bloom-tiny"), torch.bfloat16).eval()
    forced = reference.forced
    steps = forced.shape[1]

    def ratio(batches: list[tuple[TokenBatch, Any]]) -> float:
        found = []
        for batch, tokens in batches:
            ids = torch.from_numpy(np.concatenate([batch.ids, tokens[:, :-1]], axis=1))
            mask = torch.from_numpy(np.concatenate([batch.mask, np.ones_like(tokens[:, :-1])], axis=1))
            with torch.no_grad():
                found.append(model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, -steps:])
        logits, recorder = torch.cat(found), ScoreRecorder(keep_logits=False)
        for step in range(steps):
            recorder.add(logits[:, step], forced[:, step])
        errors = cell_errors(recorder.scores().projections, reference.projections)
        nrms = float(np.sqrt((errors * errors).mean())) / reference.pooled_spread
        return nrms / reference.envelopes["bf16"].nrms

    padded = [(TokenBatch.of(reference.prompts), forced)]
    alone = [(TokenBatch.of([row]), forced[[i]]) for i, row in enumerate(reference.prompts)]
    own: Callable[..., torch.Tensor] = BloomModel.build_alibi_tensor
    answers = {"own, padded": ratio(padded), "own, alone": ratio(alone)}
    BloomModel.build_alibi_tensor = vendors
    answers |= {"vendor's, padded": ratio(padded), "vendor's, alone": ratio(alone)}
    BloomModel.build_alibi_tensor = own
    json.dump(answers, sys.stdout)


main()
