"""What really runs on this rank: settings, modules, shards, kernels, bytes, hash. Reads a model, never changes it."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final

import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode

from genqual import digest
from genqual.cases import Json
from genqual.engines.hf import runtime
from genqual.models.build import dtypes_by_rule, stored_tensors

_INDEX: Final = re.compile(r"\.(\d+)\.")
_NARROW: Final = (torch.int8, torch.float8_e4m3fn, torch.float8_e5m2)
_ALIGNED: Final = 16  # bytes: what every allocator of memory keeps, and a vector of four floats
_CHUNK: Final = 1 << 26  # bytes hashed at a time, so that a hash costs no copy of the weights


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's part of a tensor: of a DTensor its shard, of a ZeRO parameter its partition, else itself.

    One that waits on NVMe is a meta tensor of its size and dtype: DeepSpeed leaves one fp16 number in its place.
    """
    if hasattr(tensor, "ds_tensor"):
        part = tensor.ds_tensor
        away = part.numel() != part.ds_numel
        return torch.empty(part.ds_numel, dtype=tensor.dtype, device="meta") if away else part.detach()
    part = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return part.detach()


def parts(name: str, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """What a parameter is stored as: itself, or the integers, scales and pre-scales of a quantised one, by name."""
    flatten = getattr(tensor, "__tensor_flatten__", None)
    if flatten is None or hasattr(tensor, "to_local"):
        yield name, local(tensor)
        return
    for attribute in flatten()[0]:
        yield from parts(f"{name}.{attribute}", getattr(tensor, attribute))


def stored(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """The parameters of this rank as they are stored, wherever they lie: here, or where accelerate's hooks fetch them.

    bitsandbytes keeps the scales of an int8 matrix beside it, in the state of its module.
    """
    return ((name, part) for name, part, _ in _stored(model))


def _stored(model: Any) -> Iterator[tuple[str, torch.Tensor, bool]]:
    """As `stored`, and whether a tensor was fetched for this: it lives no longer than it is held."""
    seen: set[int] = set()
    away = tied(model)
    for prefix, module in model.named_modules():
        fetched = offloaded(module)
        for leaf, parameter in module.named_parameters(recurse=False):
            name = f"{prefix}.{leaf}" if prefix else leaf
            if id(parameter) in seen or (parameter.is_meta and name in away):
                continue
            seen.add(id(parameter))
            if parameter.is_meta and fetched is not None:
                yield from ((own, part, True) for own, part in parts(name, fetched[leaf]))
            else:
                yield from ((own, part, False) for own, part in parts(name, parameter))
            scales = getattr(parameter, "SCB", None)
            scales = getattr(getattr(module, "state", None), "SCB", None) if scales is None else scales
            if scales is not None and leaf == "weight":
                yield f"{name}.SCB", scales, False


def tied(model: Any) -> frozenset[str]:
    """Names of parameters that are another's weight, as a head is the embedding's. transformers 4.55 does not say.

    Loaded, both are one tensor. Offloaded by accelerate, each is a meta tensor of its own: not to be counted again.
    """
    return frozenset(getattr(model, "all_tied_weights_keys", None) or {})


def offloaded(module: Any) -> Mapping[str, torch.Tensor] | None:
    """Where accelerate fetches the parameters of `module` from, by their names in it; None when it does not."""
    hook = getattr(module, "_hf_hook", None)
    for one in getattr(hook, "hooks", (hook,)):
        found: Mapping[str, torch.Tensor] | None = getattr(one, "weights_map", None)
        if getattr(one, "offload", False) and found is not None:
            return found
    return None


def tensors(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and buffers of this rank by name, each storage once (tied weights share one).

    One at a time: of a model whose weights lie on disk no more than one of them is held. Where a fetched one lay says
    nothing, for the next one may be put there.
    """
    seen: set[tuple[int, int]] = set()
    buffers = ((name, local(buffer), False) for name, buffer in model.named_buffers())
    for name, part, fetched in itertools.chain(_stored(model), buffers):
        key = (part.data_ptr(), part.numel())
        if part.numel() and not fetched and key in seen:
            continue
        if not fetched:
            seen.add(key)
        yield name, part


def unaligned(model: Any) -> int:
    """How many of the weights that lie in this host's memory begin elsewhere than at a multiple of 16 bytes.

    torch reads safetensors where they are mapped, at any multiple of 8, when no dtype changes. Products of one row (a
    single token) take another path there, so that another placement of the same weights differs in the last bits: in
    float32 at each such address that was tried, and at no multiple of 16.
    """
    here = (part for name, one in model.named_parameters() if not one.is_meta for _, part in parts(name, one))
    return sum(part.device.type == "cpu" and part.data_ptr() % _ALIGNED != 0 for part in here)


def weight_bytes(model: Any) -> int:
    """Bytes of the parameters that this rank holds, here or offloaded, scales included."""
    return sum(part.numel() * part.element_size() for _, part in stored(model))


def parameters(model: Any) -> int:
    """Number of weights that this rank holds: parameters, and buffers that a checkpoint stores beside them.

    Such a buffer is a weight that is not trained by gradients, as the correction bias of a router is. Masks and indices
    that old models store are none: they are not floating point.
    """
    away = tied(model)
    held = sum(local(p).numel() for name, p in model.named_parameters() if not (p.is_meta and name in away))
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set and buffer.is_floating_point():
                held += local(buffer).numel()
    return held


def weight_hash(model: Any) -> str:
    """SHA-256 of names, dtypes, shapes and bytes of what this rank holds; buffers too, a rotary table is one."""
    return digest.of_parts(_named_bytes(model))


def _named_bytes(model: Any) -> Iterator[bytes | memoryview]:
    for name, part in tensors(model):
        yield f"{name} {part.dtype} {tuple(part.shape)}\n".encode()
        flat = part.contiguous().reshape(-1).view(torch.uint8)
        for start in range(0, flat.numel(), _CHUNK):
            yield flat[start : start + _CHUNK].cpu().numpy().data


class _Operators(TorchDispatchMode):
    """Counts what reaches the dispatcher, and of that what is given 8-bit numbers to compute with.

    torch's profiler would say the same, and writes to stderr.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.narrow: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[str(func)] += 1
        if any(isinstance(value, torch.Tensor) and value.dtype in _NARROW for value in args):
            self.narrow[str(func)] += 1
        return func(*args, **(kwargs or {}))


def operators(model: Any, device: torch.device) -> tuple[dict[str, Json], dict[str, Json]]:
    """Operators that one pass over two tokens calls, with their counts, and those of them given 8-bit operands.

    Collective, like any pass.
    """
    ids = torch.ones((1, 2), dtype=torch.int64, device=device)
    with torch.no_grad(), _Operators() as seen:
        model(input_ids=ids, use_cache=False, return_dict=True)
    return dict(sorted(seen.counts.items())), dict(sorted(seen.narrow.items()))


def of_torch(device: torch.device) -> dict[str, Json]:
    """Versions and settings of torch in this process; `fp32_exact` is tried, not read."""
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "mkldnn": bool(torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "tf32": {
            "matmul": bool(torch.backends.cuda.matmul.allow_tf32),
            "cudnn": bool(torch.backends.cudnn.allow_tf32),
        },
        "fp32_exact": runtime.fp32_is_exact(device),
        "torch_build": torch.__config__.show(),
    }


def dtype_rule(model: Any, asked: torch.dtype) -> dict[str, Json]:
    """Weights whose dtype is not the one that this model, asked for `asked`, has by its own rule.

    `kept` counts the weights that it keeps in another dtype than `asked`; `wrong` has a sentence for each that is off.
    Nothing for a model that is not of transformers' classes: its rule is not known.
    """
    if not isinstance(model, transformers.PreTrainedModel):
        return {}
    rule, wrong = dtypes_by_rule(type(model), model.config, asked), []
    for name, tensor in stored_tensors(model):
        held, want = tensor.dtype, rule.get(name, asked)
        if held != want:
            why = "as was declared" if want == asked else f"which the model keeps so whatever is declared ({asked})"
            wrong.append(f"{name} in {held}, not in {want}, {why}".replace("torch.", ""))
    return {"dtype_rule": {"kept": sum(dtype != asked for dtype in rule.values()), "wrong": [*wrong]}}


def matrices(model: Any) -> dict[str, Json]:
    """Weights and bytes of linear layers' matrices inside the layers, and what stands beside them.

    A scheme of quantisation takes these. `head` and `embedding` are told apart: one matrix when they are tied, and two
    once the head is quantised, so that a small model with a tied head holds more than before. `other` weights lie in no
    linear layer: norms, convolutions, experts that are one tensor a layer.
    """
    found = {kind: [0, 0] for kind in ("layers", "head", "embedding", "other")}
    kinds = {id(model.get_output_embeddings()): "head", id(model.get_input_embeddings()): "embedding"}
    seen: set[int] = set()
    for module in model.modules():
        for leaf, parameter in module.named_parameters(recurse=False):
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            linear = leaf == "weight" and parameter.dim() == 2 and "Linear" in type(module).__name__
            kind = kinds.get(id(module)) or ("layers" if linear else "other")
            held = list(parts(leaf, parameter))
            scales = getattr(parameter, "SCB", None)  # bitsandbytes keeps them beside
            held += [] if scales is None else [("SCB", scales)]
            found[kind][0] += parameter.numel()
            found[kind][1] += sum(part.numel() * part.element_size() for _, part in held)
    return {kind: {"weights": weights, "bytes": held} for kind, (weights, held) in found.items()}


def of_model(model: Any, device: torch.device) -> dict[str, Json]:
    """How the model is made: attention, dtypes, module classes, and the shapes of this rank's shards.

    `shards` lists the parameters of the first layer and those outside layers; other layers repeat the first.
    """
    first = {
        name: list(part.shape)
        for name, part in stored(model)
        if not (found := _INDEX.search(name)) or found.group(1) == "0"
    }
    ran, narrow = operators(model, device)
    return {
        "model": type(model).__name__,
        "attn_implementation": model.config._attn_implementation,
        "dtypes": sorted({str(part.dtype).removeprefix("torch.") for _, part in stored(model)}),
        "weight_bytes": weight_bytes(model),
        "unaligned": unaligned(model),
        **({"matrices": matrices(model)} if isinstance(model, transformers.PreTrainedModel) else {}),
        "modules": dict(sorted(Counter(type(module).__name__ for module in model.modules()).items())),
        "shards": first,
        "operators": ran,
        "operators_8bit": narrow,
    }
