"""Run as a process: what transformers says of small models. The pytest process never imports torch.

python peer_transformers.py CASES.json, a list of {"kind", "config", "weights", "out", ...}; each writes `out`
(safetensors). Kind "logits" with "ids": "fp32" and "fp64" (tokens, vocabulary), and "greedy" (8,), what `generate`
chooses in float64. Kind "runs" with "prompts" and "forced" (rows, steps): for each of fp32 and bf16 the logits
(steps, rows, vocabulary) of three ways to run it, and "free" (rows, steps), its own greedy tokens.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import modeling_rope_utils
from transformers.models.auto import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.models.bloom import modeling_bloom
from transformers.models.llama import modeling_llama

GREEDY = 8
Case = dict[str, Any]
Tensors = dict[str, torch.Tensor]


class Double:
    """The torch module, except that its float32 is float64: transformers upcasts norms, softmax and angles to it."""

    def __getattr__(self, name: str) -> Any:
        return torch.float64 if name in ("float32", "float") else getattr(torch, name)


def model_of(case: Case, dtype: torch.dtype, attention: str = "eager") -> Any:
    config = CONFIG_MAPPING[case["config"]["model_type"]](**case["config"])
    config._attn_implementation = attention if config.model_type == "llama" else "eager"
    model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config).to(dtype).eval()
    weights = {name: tensor.to(dtype) for name, tensor in load_file(case["weights"]).items()}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if unexpected or set(missing) - ({"lm_head.weight"} if config.tie_word_embeddings else set()):
        raise SystemExit(f"weights do not fit: {missing} missing, {unexpected} unexpected")
    model.tie_weights()
    model.generation_config.eos_token_id = None  # no early stop; min_new_tokens would forbid the id instead
    return model


def single_pass(case: Case, dtype: torch.dtype) -> Tensors:
    model, ids = model_of(case, dtype), torch.tensor([case["ids"]])
    out: torch.Tensor = model(input_ids=ids, use_cache=False).logits[0]
    if out.dtype != dtype:
        raise SystemExit(f"logits came as {out.dtype}, not {dtype}")
    if dtype == torch.float32:
        return {"fp32": out}
    chosen = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=GREEDY, do_sample=False)
    return {"fp64": out, "greedy": chosen[0, -GREEDY:]}


def prefill(model: Any, prompt: list[int], forced: list[int]) -> torch.Tensor:
    """Logits (steps, vocabulary) of one row in one pass without a cache."""
    logits: torch.Tensor = model(input_ids=torch.tensor([[*prompt, *forced[:-1]]]), use_cache=False).logits[0]
    return logits[len(prompt) - 1 :]


def decode(model: Any, prompts: list[list[int]], forced: list[list[int]] | None, steps: int, pad: int) -> Tensors:
    """Step by step through the cache, left padded to `pad` more than the longest: tokens forced, or its own."""
    length = max(map(len, prompts)) + pad
    ids = torch.tensor([[0] * (length - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (length - len(p)) + [1] * len(p) for p in prompts])
    past, logits, chosen = None, [], []
    for step in range(steps):
        extra = {}
        if model.config.model_type == "llama":
            extra["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        out = model(input_ids=ids, attention_mask=mask, past_key_values=past, use_cache=True, **extra)
        past, last = out.past_key_values, out.logits[:, -1]
        logits.append(last)
        chosen.append(last.argmax(-1) if forced is None else torch.tensor([row[step] for row in forced]))
        ids, mask = chosen[-1][:, None], torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
    return {"logits": torch.stack(logits), "tokens": torch.stack(chosen, 1)}


def runs(case: Case) -> Tensors:
    prompts, forced = case["prompts"], case["forced"]
    found: Tensors = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        eager, sdpa, steps = model_of(case, dtype), model_of(case, dtype, "sdpa"), len(forced[0])
        rows = [prefill(eager, p, f) for p, f in zip(prompts, forced, strict=True)]
        found[f"{name}.eager-prefill"] = torch.stack(rows, 1)
        found[f"{name}.sdpa-decode"] = decode(sdpa, prompts, forced, steps, 0)["logits"]
        found[f"{name}.padded-decode"] = decode(sdpa, prompts, forced, steps, 5)["logits"]
        found[f"{name}.free"] = decode(sdpa, prompts, None, steps, 0)["tokens"]
    return {key: value.float() if value.is_floating_point() else value for key, value in found.items()}


def main() -> None:
    torch.set_num_threads(1)
    cases = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    with torch.no_grad():
        found = [runs(case) if case["kind"] == "runs" else single_pass(case, torch.float32) for case in cases]
        for module in (modeling_rope_utils, modeling_bloom, modeling_llama):
            module.torch = Double()
        torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]
        for case, tensors in zip(cases, found, strict=True):
            if case["kind"] == "logits":
                tensors |= single_pass(case, torch.float64)
            save_file({key: value.contiguous() for key, value in tensors.items()}, case["out"])


if __name__ == "__main__":
    main()
