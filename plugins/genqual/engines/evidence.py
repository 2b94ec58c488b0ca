"""What really runs on this rank: settings, modules, shards, kernels, bytes, hash. Reads a model, never changes it."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode

from genqual.engines import runtime
from genqual.spec import Json

_INDEX: Final = re.compile(r"\.(\d+)\.")
_CHUNK: Final = 1 << 26  # bytes hashed at a time, so that a hash costs no copy of the weights


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's part of a tensor: of a DTensor its shard, of any other the tensor itself."""
    part = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return part.detach()


def tensors(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and buffers of this rank by name, each storage once (tied weights share one)."""
    seen: set[tuple[int, int]] = set()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        part = local(tensor)
        key = (part.data_ptr(), part.numel())
        if part.numel() and key in seen:
            continue
        seen.add(key)
        yield name, part


def weight_bytes(model: Any) -> int:
    """Bytes of the parameters that this rank holds."""
    return sum(local(p).numel() * p.element_size() for p in model.parameters())


def parameters(model: Any) -> int:
    """Number of parameters that this rank holds."""
    return sum(local(p).numel() for p in model.parameters())


def weight_hash(model: Any) -> str:
    """SHA-256 of names, dtypes, shapes and bytes of what this rank holds; buffers too, a rotary table is one."""
    digest = hashlib.sha256()
    for name, part in tensors(model):
        digest.update(f"{name} {part.dtype} {tuple(part.shape)}\n".encode())
        flat = part.reshape(-1).view(torch.uint8)
        for start in range(0, flat.numel(), _CHUNK):
            digest.update(flat[start : start + _CHUNK].cpu().numpy().data)
    return digest.hexdigest()


def cache_bytes(cache: Any) -> int:
    """Bytes of keys and values in a transformers cache, on this rank."""
    return sum(part.numel() * part.element_size() for layer in cache.layers for part in (layer.keys, layer.values))


class _Operators(TorchDispatchMode):
    """Counts what reaches the dispatcher. torch's profiler would say the same, and writes to stderr."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[str(func)] += 1
        return func(*args, **(kwargs or {}))


def operators(model: Any, device: torch.device) -> dict[str, Json]:
    """Operators that one pass over two tokens calls, with their counts. Collective, like any pass."""
    ids = torch.ones((1, 2), dtype=torch.int64, device=device)
    with torch.no_grad(), _Operators() as seen:
        model(input_ids=ids, use_cache=False, return_dict=True)
    return dict(sorted(seen.counts.items()))


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
        "fp32_exact": runtime.fp32_is_exact(device),
        "torch_build": torch.__config__.show(),
    }


def of_model(model: Any, device: torch.device) -> dict[str, Json]:
    """How the model is made: attention, dtypes, module classes, and the shapes of this rank's shards.

    `shards` lists the parameters of the first layer and those outside layers; other layers repeat the first.
    """
    first = {
        name: list(part.shape)
        for name, part in ((name, local(p)) for name, p in model.named_parameters())
        if not (found := _INDEX.search(name)) or found.group(1) == "0"
    }
    return {
        "model": type(model).__name__,
        "attn_implementation": model.config._attn_implementation,
        "dtypes": sorted({str(p.dtype).removeprefix("torch.") for p in model.parameters()}),
        "modules": dict(sorted(Counter(type(module).__name__ for module in model.modules()).items())),
        "shards": first,
        "operators": operators(model, device),
    }
