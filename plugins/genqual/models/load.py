"""Load any model with torch and transformers; in a rank only. A weight the checkpoint does not give is an error."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import transformers
from filelock import FileLock
from numpy.typing import NDArray
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from genqual.atomic import replacing
from genqual.cases import Json
from genqual.errors import BadInput, Unsupported
from genqual.models import embedded, ggufread, hub, weights
from genqual.models.build import build, dtype_option
from genqual.models.catalogue import cache_dir
from genqual.models.load_quantised import in_one_dtype, widening
from genqual.models.quantised.registry import section_of
from genqual.models.rotary_spelling import unseen
from genqual.models.spec import ModelSpec
from genqual.models.writes_text import why_no_text

# Special tokens change no logit; that every BLOOM is tied transformers says, and loads a stored head all the same.
_UNCHECKED: Final = frozenset({"bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings"})
_PROBLEMS: Final = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")


def load(spec: ModelSpec, dtype: torch.dtype, *, attn_implementation: str | None = None, **from_pretrained: Any) -> Any:
    """The transformers model of `spec`: eval mode, no gradients.

    Embedded models are built in memory; mixtures of experts, and with options of `from_pretrained` (`device_map`,
    `quantization_config`, `tp_plan`, ...) all, are loaded from the cache directory like any checkpoint. GGUF is
    dequantised.

    Raises Unsupported where this transformers has no such architecture, BadInput when the checkpoint lacks a weight,
    has one too many or one of another shape, when this transformers would read its rotary base wrongly, and when a hub
    id cannot be found.
    """
    check_known(spec)
    if spec.source == "embedded" and not from_pretrained and embedded.in_memory(spec.location):
        return build(spec, dtype, attn_implementation=attn_implementation)
    options: dict[str, Any] = dict(from_pretrained) | dtype_option(dtype)
    if attn_implementation is not None:
        options["attn_implementation"] = attn_implementation
    model, info = _from_pretrained(spec, options, dtype)
    info["unexpected_keys"] = _unexpected(spec, info.get("unexpected_keys", ()))
    problems = {kind: sorted(map(str, info[kind])) for kind in _PROBLEMS if info.get(kind)}
    if problems:
        told = "; ".join(f"{kind.replace('_', ' ')}: {', '.join(names[:5])}" for kind, names in problems.items())
        raise BadInput(
            f"model {spec.location}: the checkpoint and {type(model).__name__} disagree ({told}). What it lacks "
            "would be random, so nothing is judged: use a complete checkpoint of a causal language model"
        )
    if spec.source == "directory" and section_of(weights.stored_config(spec)):
        in_one_dtype(model, dtype)
    return model.eval().requires_grad_(False)


def check_known(spec: ModelSpec) -> None:
    """Raises Unsupported where this transformers has no such architecture. What only loading tells is not checked."""
    if spec.source in ("embedded", "directory") and spec.architecture not in CONFIG_MAPPING:
        raise Unsupported(
            f"transformers {transformers.__version__} has no architecture {spec.architecture}, which model {spec.name} "
            "is of; install a release that has it"
        )
    if spec.source == "directory":
        other = why_no_text(weights.stored_config(spec))
        if other is None and spec.architecture not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
            other = f"transformers {transformers.__version__} has no causal language model of {spec.architecture}"
        if other is not None:
            raise Unsupported(f"model {spec.location}: {other}")


def _unexpected(spec: ModelSpec, names: Collection[str]) -> list[str]:
    """What of `names`, which transformers calls unexpected, is no layer of drafts and nothing else that is left aside.

    Experts of a layer have names of their own here: transformers 5 stacks them before it misses a place for them.
    """
    if spec.source != "directory" or not names:
        return list(names)
    aside, draft = weights.left_aside(spec), weights.draft_layers(weights.stored_config(spec))
    return [name for name in names if not _stored_as(name, aside) and not draft.match(name)]


def _stored_as(name: str, stored: frozenset[str]) -> bool:
    """Whether transformers' `name` is one of `stored`, of which a checkpoint of the base model lacks the prefix."""
    return name in stored or name.partition(".")[2] in stored


def _from_pretrained(spec: ModelSpec, options: dict[str, Any], dtype: torch.dtype) -> tuple[Any, dict[str, Any]]:
    if spec.source == "gguf":
        file = Path(spec.location)
        try:
            found = _loaded(str(file.parent), gguf_file=file.name, **(_dequantised() | options))
        except ImportError as error:
            raise BadInput(f"model {file}: reading GGUF needs the package gguf ({error}); pip install gguf") from error
        _check_scaled(file, found[0].config.to_dict())
        _check_read(spec, found[0].config.to_dict())
        return found
    if spec.source != "hub":
        if spec.source == "directory":
            options = _widened(spec, options, dtype)
        _check_rotary(weights.config(spec), spec.location)
        return _loaded(str(weights.directory(spec)), use_safetensors=True, local_files_only=True, **options)
    try:
        return _loaded(spec.location, revision=spec.revision or None, use_safetensors=True, **options)
    except OSError as error:  # what huggingface_hub raises for no network, no such repository, no permission
        first = str(error).strip().splitlines()[0]
        raise BadInput(f"model {spec.location}: the hub does not give it ({first}); {hub.how_to_get(spec)}") from error


def _dequantised() -> dict[str, Any]:
    # Late versions of transformers 5 keep GGUF blocks packed unless told otherwise; before, there was no choice.
    if hasattr(transformers, "GgufConfig"):
        return {"quantization_config": transformers.GgufConfig(dequantize=True)}
    return {}


def _check_scaled(file: Path, read: dict[str, Any]) -> None:
    # transformers reads a file's rotary base and, of most architectures, drops how its angles are scaled.
    scaling = ggufread.scaled_rotary(file)
    rope = read.get("rope_parameters") or read.get("rope_scaling") or {}
    if scaling and rope.get("rope_type", "default") == "default":
        raise BadInput(
            f"model {file}: it scales its rotary angles ({scaling}), which transformers {transformers.__version__} "
            "drops when it reads GGUF, so it would be another model; use the directory that the file was converted from"
        )


def _check_read(spec: ModelSpec, read: dict[str, Any]) -> None:
    # What of the header transformers leaves out it fills in with what the architecture's first model had.
    try:
        said = weights.config(spec)
    except BadInput:
        return  # an architecture that is not known here is judged by what transformers says, if at all
    other = [name for name in said if name in read and name not in _UNCHECKED and not _alike(read[name], said[name])]
    if other:
        told = ", ".join(f"{name} = {read[name]!r} for {said[name]!r}" for name in other)
        raise BadInput(
            f"model {spec.location}: transformers {transformers.__version__} reads {told} from GGUF, so it would be "
            "another model; use the directory that the file was converted from"
        )


def _alike(one: Any, other: Any) -> bool:
    """Whether two values of a config are equal; numbers in the 32 bits that a GGUF header has for them."""
    numbers = isinstance(one, float) or isinstance(other, float)
    return bool(np.float32(one) == np.float32(other)) if numbers and one is not None else bool(one == other)


def _widened(spec: ModelSpec, options: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    widened = widening(spec, dtype)
    if widened and "quantization_config" in options:
        raise Unsupported(f"model {spec.location}: is quantised as it is stored, and cannot be quantised once more")
    return options | widened


def _check_rotary(config: dict[str, Json], where: str) -> None:
    lacking = unseen(config) if int(transformers.__version__.split(".")[0]) < 5 else []
    if lacking:
        raise BadInput(
            f"model {where}: its config.json was written by transformers 5, and {transformers.__version__} would "
            f"ignore rope_parameters {config['rope_parameters']}; add {' and '.join(lacking)} of these values to "
            "config.json"
        )


def _loaded(where: str, **options: Any) -> tuple[Any, dict[str, Any]]:
    # Weights of another shape are "ignored" so that they are reported by name with the rest, and then refused.
    reported: dict[str, Any] = {"output_loading_info": True, "ignore_mismatched_sizes": True}
    found: tuple[Any, dict[str, Any]] = AutoModelForCausalLM.from_pretrained(where, **(reported | options))
    return found


def converted(spec: ModelSpec, dtype: torch.dtype, *, without: str = "") -> Path:
    """One safetensors file of the model in `dtype`, names without the prefix `without`; made once, kept in the cache.

    For loaders that take a file as it is. Raises BadInput for a GGUF file or a hub id.
    """
    kind = str(dtype).removeprefix("torch.")
    folder = cache_dir() / "converted"
    file = folder / f"{spec.name}-{weights.sha256(spec)[:16]}-{kind}{'-bare' if without else ''}.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock"):
        if not file.is_file():
            state = weights.lazily(spec)
            tensors = {name.removeprefix(without): torch.from_numpy(state[name]).to(dtype) for name in state}
            with replacing(file) as scratch:
                save_file(tensors, scratch)
    return file


def state_hash(model: Any) -> str:
    """The canonical hash of a model's parameters, as `weights.sha256` has it for the checkpoint it came from.

    Equal to it when the model is complete, unsharded and in a dtype that holds the checkpoint exactly. Tied parameters
    count once and buffers not at all. Raises ValueError on a parameter without storage (offloaded, meta).
    """
    return weights.hash_state(_float32(model))


def _float32(model: Any) -> Iterator[tuple[str, NDArray[np.float32]]]:
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise ValueError(f"{name} has no storage here (offloaded or meta), so it cannot be hashed")
        yield name, parameter.detach().to(device="cpu", dtype=torch.float32).contiguous().numpy()
