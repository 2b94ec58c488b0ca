"""How transformers loads a quantised checkpoint as the model that is judged: its weights widened. Torch; ranks only.

An engine that kept them narrow would quantise activations as well, or compute with kernels of its own: what a reference
of the dequantised model says is right of bf16, fp16 and fp32 arithmetic alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, Final

import torch
import transformers
from transformers import AutoConfig

from genqual.cases import Json
from genqual.errors import Unsupported, pip_install
from genqual.models import weights
from genqual.models.dense import rounded_to, unwidened
from genqual.models.quantised.registry import section_of, undone
from genqual.models.spec import ModelSpec

_ROUNDED: Final = "nvfp4-pack-quantized"
_COMPRESSED: Final = "compressed-tensors"
_TORCH: Final[Mapping[str, torch.dtype]] = {"bf16": torch.bfloat16, "fp16": torch.float16}
_CONFIGS: Final[Mapping[str, str]] = {
    _COMPRESSED: "CompressedTensorsConfig",
    "fp8": "FineGrainedFP8Config",
    "mxfp4": "Mxfp4Config",
}
"""The class of transformers that holds the section of a `quant_method` whose weights it can widen."""


def widening(spec: ModelSpec, dtype: torch.dtype) -> dict[str, Any]:
    """Options of `from_pretrained` that widen the weights of `spec` as they are read; none where it is not quantised.

    Raises Unsupported, naming the format, where this transformers has no such way, or rounds to less than `dtype`. A
    format that genqual does not know is left to transformers: it is judged by what transformers says, or not at all. So
    is one with fields that genqual refuses; transformers widens it, too, where it can.
    """
    section = section_of(weights.stored_config(spec))
    if section is None:
        return {}
    method = str(section.get("quant_method"))
    known = undone(weights.stored_config(spec))
    if not _can_widen(method):
        if not known:
            return {}
        raise Unsupported(
            f"model {spec.location}: transformers {transformers.__version__} does not widen {method} weights on load, "
            "so the dequantised model cannot be judged with it; use an engine that does, or what this was "
            "made from"
        )
    if (why := unwidened(spec)) is not None:
        raise Unsupported(
            f"model {spec.location}: transformers {transformers.__version__} {why}, so it would be another model or "
            "none; use an engine that reads it, or what this was made from"
        )
    if method == _COMPRESSED and find_spec("compressed_tensors") is None:
        raise Unsupported(
            f"model {spec.location}: transformers widens {method} weights by the package compressed-tensors, which is "
            f"not installed; {pip_install(_COMPRESSED)}"
        )
    if _ROUNDED in str(section) and dtype != torch.bfloat16:
        raise Unsupported(
            f"model {spec.location}: compressed-tensors rounds {_ROUNDED} weights to bf16 as it widens them, which in "
            f"{str(dtype).removeprefix('torch.')} is another model than the file declares; run it in bf16"
        )
    narrow = rounded_to(spec)
    if narrow is not None and dtype not in (torch.bfloat16, _TORCH[narrow[1]]):
        raise Unsupported(
            f"model {spec.location}: compressed-tensors rounds weights to the dtype of their scales as it widens them "
            f"({narrow[0]}: {narrow[1]}), which in {str(dtype).removeprefix('torch.')} is another model than the file "
            f"declares; run it in {narrow[1]}"
        )
    config = AutoConfig.from_pretrained(str(weights.directory(spec)), local_files_only=True)
    # transformers 5 does not know the section by its first name, compression_config.
    config.quantization_config = {**_plain(getattr(config, "quantization_config", section)), "dequantize": True}
    return {"config": config}


def in_one_dtype(model: Any, dtype: torch.dtype) -> None:
    """Make what is not quantised `dtype`: as it widens, transformers leaves that in the dtype of the file.

    Parameters that it keeps in fp32 by the model's own rule stay as they are.
    """
    for parameter in model.parameters():
        if parameter.dtype in (torch.float16, torch.bfloat16) and parameter.dtype != dtype:
            parameter.data = parameter.data.to(dtype)


def _can_widen(method: str) -> bool:
    found = getattr(transformers, _CONFIGS.get(method, ""), None)
    return found is not None and "dequantize" in inspect.signature(found.__init__).parameters


def _plain(section: Any) -> dict[str, Json]:
    read: dict[str, Json] = dict(section if isinstance(section, Mapping) else section.to_dict())
    return read
