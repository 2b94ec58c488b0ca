"""Build an embedded model with torch and transformers, from integers; in a rank only. No file, no network."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from accelerate import init_empty_weights
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from genqual.models import embedded, integers
from genqual.models.spec import ModelSpec


def dtype_option(dtype: torch.dtype) -> dict[str, torch.dtype]:
    """The keyword that gives transformers a dtype: `torch_dtype` up to 4.55, `dtype` since."""
    major, minor = (int(part) for part in transformers.__version__.split(".")[:2])
    return {"dtype" if (major, minor) >= (4, 56) else "torch_dtype": dtype}


def build(spec: ModelSpec, dtype: torch.dtype, *, attn_implementation: str | None = None) -> Any:
    """The transformers model of an embedded spec on the CPU: eval mode, no gradients, greedy, no end-of-text token.

    Every weight is exact in fp32, bf16 and fp16. Raises BadInput on an unknown name, RuntimeError when transformers has
    other parameters than `embedded.shapes` says.
    """
    described: dict[str, Any] = dict(embedded.config(spec.location))
    config = AutoConfig.for_model(described.pop("model_type"), **described)
    options: dict[str, Any] = dtype_option(dtype)
    if attn_implementation is not None:
        options["attn_implementation"] = attn_implementation
    # Parameters without storage, so nothing is initialised; buffers (rotary frequencies) are real: they are no weights.
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, **options)
    tensors = {name: torch.from_numpy(values).to(dtype) for name, values in integers.tensors(spec.location)}
    tied = bool(described.get("tie_word_embeddings"))
    if tied:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    model.load_state_dict(tensors, strict=True, assign=True)
    if tied:
        model.tie_weights()
    model.generation_config = GenerationConfig(
        do_sample=False, bos_token_id=None, eos_token_id=None, pad_token_id=described["pad_token_id"]
    )
    return model.eval().requires_grad_(False)
