"""Read a model into this process as a load request says: what the models package offers, with an engine's options."""

from __future__ import annotations

from typing import Any

import transformers
from accelerate import init_empty_weights
from transformers import AutoConfig, AutoModelForCausalLM

from genqual.engines.base import LoadRequest
from genqual.engines.hf.runtime import dtype_of
from genqual.errors import BadInput, Unsupported
from genqual.models import weights
from genqual.models.attention_shape import Sharing, why_not_shared
from genqual.models.build import dtype_option
from genqual.models.load import check_known, load
from genqual.models.quantised.registry import section_of


def read(request: LoadRequest, **from_pretrained: Any) -> Any:
    """The model, on the CPU or where `from_pretrained` puts it. Raises Unsupported on an attention it lacks."""
    transformers.utils.logging.disable_progress_bar()  # a rank's output is a log
    wanted = request.options.get("attn_implementation")
    if wanted is not None and not isinstance(wanted, str):
        raise BadInput(f"attn_implementation {wanted!r}: must be a name such as eager or sdpa")
    try:
        model = load(request.model, dtype_of(request.dtype), attn_implementation=wanted, **from_pretrained)
    except (ValueError, ImportError) as error:
        if wanted is None or "att" not in str(error).lower():
            raise
        raise Unsupported(f"{request.model.name} has no {wanted} attention here: {error}") from error
    if wanted not in {None, model.config._attn_implementation}:  # transformers 4 runs BLOOM eager whatever is asked
        raise Unsupported(
            f"{request.model.name} has no {wanted} attention: transformers took {model.config._attn_implementation}"
        )
    return model


def empty(request: LoadRequest) -> Any:
    """The model as `request` says, its parameters without storage; buffers are real, for no checkpoint has them all."""
    spec = request.model
    check_known(spec)
    if spec.source == "directory" and section_of(weights.stored_config(spec)):
        raise Unsupported(f"{spec.name} is quantised: it is read whole, and not placed part by part")
    where = spec.location if spec.source == "hub" else str(weights.directory(spec))
    config = AutoConfig.from_pretrained(where, revision=spec.revision or None)
    options: dict[str, Any] = dtype_option(dtype_of(request.dtype))
    if "attn_implementation" in request.options:
        options["attn_implementation"] = request.options["attn_implementation"]
    with init_empty_weights(include_buffers=False):
        return AutoModelForCausalLM.from_config(config, **options).eval()


def check_heads(request: LoadRequest, sharing: Sharing) -> None:
    """Raises Unsupported, with the counts, where the ranks cannot share the model's heads out. Reads no weights."""
    spec = request.model
    if spec.source in ("embedded", "directory"):
        config = dict(weights.config(spec))
    elif spec.source == "hub":
        config = AutoConfig.from_pretrained(spec.location, revision=spec.revision or None).to_dict()
    else:
        return  # a GGUF file is read whole before its configuration is known
    reason = why_not_shared(config, request.world_size, sharing)
    if reason is not None:
        raise Unsupported(reason)


def tensor_parallel_plan(request: LoadRequest) -> dict[str, str]:
    """The plan that transformers has for the model's architecture, empty when it has none. Reads no weights."""
    if request.model.architecture:
        config = AutoConfig.for_model(request.model.architecture)
    else:
        config = AutoConfig.from_pretrained(request.model.location, revision=request.model.revision or None)
    return dict(config.get_text_config().base_model_tp_plan or {})
