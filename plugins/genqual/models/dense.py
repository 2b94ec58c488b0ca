"""A quantised checkpoint written out as the float32 model that it declares, for engines that cannot widen it. NumPy."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Final

from filelock import FileLock

from genqual import digest
from genqual.errors import BadInput
from genqual.models import declared_inputs, safetensor, weights
from genqual.models.catalogue import cache_dir
from genqual.models.quantised.base import Tensor
from genqual.models.quantised.compressed_tensors import METHOD, CompressedTensors
from genqual.models.quantised.fp8 import Fp8
from genqual.models.quantised.registry import method_of, scheme_of, section_of
from genqual.models.spec import ModelSpec

_WIDENED: Final = frozenset({"fp8", "mxfp4"})
"""The methods that transformers widens on load, with no package besides; compressed-tensors by the package."""


def dense(spec: ModelSpec) -> ModelSpec:
    """`spec` itself, or a directory in the cache with its dequantised weights where transformers does not widen them.

    The directory has four bytes for each weight, and is made once. Raises BadInput as `weights.lazily` does.
    """
    if spec.source != "directory":
        return spec
    section = section_of(weights.stored_config(spec))
    if section is None or (str(section.get("quant_method")) in _WIDENED and unwidened(spec) is None):
        return spec
    try:
        scheme_of(weights.stored_config(spec))
    except BadInput:
        return spec  # a format that is not known here: transformers may load it
    # The same weights under another configuration are another model: the copy carries the configuration, too.
    described = digest.of_text(json.dumps(weights.config(spec), sort_keys=True))
    target = cache_dir() / "dequantised" / f"{spec.name}-{weights.sha256(spec)[:16]}-{described[:8]}"
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if not target.is_dir():
            _write(spec, target)
    return ModelSpec(spec.name, "directory", str(target), spec.architecture)


def unwidened(spec: ModelSpec) -> str | None:
    """Why transformers does not widen the weights of a directory as it declares them, read off headers.

    None where it does, and where the format is not known here. Raises BadInput as `weights.lazily` does.
    """
    config = weights.stored_config(spec)
    try:
        scheme = scheme_of(config)
    except BadInput:
        return None
    method = method_of(section_of(config) or {})
    if scheme is not None and method not in (*_WIDENED, METHOD):
        return f"does not widen {method} weights on load"
    return scheme.unwidened(stored_tensors(spec)) if isinstance(scheme, Fp8) else None


def rounded_to(spec: ModelSpec) -> tuple[str, str] | None:
    """A scale of a directory in 16 bits and its dtype, "bf16" or "fp16", to which compressed-tensors widens; or None.

    Read off headers. Raises BadInput as `weights.lazily` does.
    """
    try:
        scheme = scheme_of(weights.stored_config(spec))
    except BadInput:
        return None
    found = scheme.rounded_to(stored_tensors(spec)) if isinstance(scheme, CompressedTensors) else None
    return None if found is None else (found[0], {"BF16": "bf16", "F16": "fp16"}[found[1]])


def stored_tensors(spec: ModelSpec) -> dict[str, Tensor]:
    """What the headers of a directory say of each tensor."""
    entries = safetensor.checkpoint(Path(spec.location))
    return {name: Tensor(entry.dtype, entry.shape) for name, entry in entries.items()}


def _write(spec: ModelSpec, target: Path) -> None:
    scratch = Path(tempfile.mkdtemp(dir=target.parent))
    try:
        described = weights.config(spec) | {"torch_dtype": "float32", "dtype": "float32"}
        (scratch / "config.json").write_text(json.dumps(described, indent=2) + "\n")
        safetensor.write_f32(scratch / "model.safetensors", weights.shapes(spec), weights.lazily(spec))
        if inputs := declared_inputs.declared(spec):
            declared_inputs.write(scratch / declared_inputs.FILE, inputs)
        scratch.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
