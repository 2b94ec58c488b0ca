"""Build an embedded model with torch and transformers, from integers; in a rank only. No file, no network."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
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


def dtypes_by_rule(kind: type[Any], config: Any, dtype: torch.dtype) -> dict[str, torch.dtype]:
    """The dtype of each weight of a model of class `kind` that is loaded in `dtype`: buffers that a file stores, too.

    A model may keep some weights in fp32 whatever is asked for: by a list of its class (`_keep_in_fp32_modules`, in
    fp16 alone; `_keep_in_fp32_modules_strict`, in bf16 as well), or where its constructor names the dtype.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with init_empty_weights(include_buffers=False):
            empty = kind(copy.deepcopy(config))
    finally:
        torch.set_default_dtype(before)
    return _rule_of(empty, dtype)


def _rule_of(empty: Any, dtype: torch.dtype) -> dict[str, torch.dtype]:
    """The same of a model that was made in `dtype`, its weights without storage."""
    kept = _kept_in_fp32(empty, dtype)
    return {
        name: torch.float32 if kept is not None and kept.search(name) else tensor.dtype
        for name, tensor in stored_tensors(empty)
    }


def stored_tensors(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and the floating-point buffers that a checkpoint stores, by name."""
    yield from model.named_parameters()
    for prefix, module in model.named_modules():
        for leaf, buffer in module.named_buffers(recurse=False):
            if leaf not in module._non_persistent_buffers_set and buffer.is_floating_point():
                yield (f"{prefix}.{leaf}" if prefix else leaf), buffer


def _kept_in_fp32(model: Any, dtype: torch.dtype) -> re.Pattern[str] | None:
    """What transformers looks for in a weight's name to load it in fp32 although `dtype` was asked for."""
    names: set[str] = set()
    if dtype == torch.float16:
        names |= set(getattr(model, "_keep_in_fp32_modules", None) or ())
    if dtype in (torch.float16, torch.bfloat16):
        names |= set(getattr(model, "_keep_in_fp32_modules_strict", None) or ())
    if not names:
        return None
    if hasattr(model, "_get_dtype_plan"):  # transformers 5: anywhere in a name, with * as a wildcard
        return re.compile("|".join(name.replace("*", ".*") for name in sorted(names)))
    return re.compile("|".join(rf"((^|\.){name}($|\.))" for name in sorted(names)))


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
    rule = _rule_of(model, dtype)  # of this one: making another takes a fifth of the load time
    tensors = {
        name: torch.from_numpy(values).to(rule.get(name, dtype)) for name, values in integers.tensors(spec.location)
    }
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
