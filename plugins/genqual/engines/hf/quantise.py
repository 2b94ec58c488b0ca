"""Quantisation schemes on loaded models, through bitsandbytes and torchao. No model is read and nothing is judged."""

from __future__ import annotations

import importlib
import logging
import warnings
from typing import Any, Final

import numpy as np
import torch

from genqual.errors import Unsupported

TORCHAO: Final = frozenset({"int8-weight", "int8-dynamic", "int8-smoothquant"})
# Rows and tokens that SmoothQuant sees. Measured on both tiny models: with 8 to 128 rows the worst fault-free cell is
# 8 to 15 times the median one (outliers that were not seen), with 256 rows 6 times, as without smoothing.
CALIBRATION_SHAPE: Final = (256, 32)
_AT_ONCE: Final = 8


def bitsandbytes_config() -> dict[str, Any]:
    """Arguments of from_pretrained for LLM.int8 (threshold 6.0, upstream's own). Raises Unsupported without it.

    Its remark on the cast to fp16 comes once a matrix product, so it is dropped; `inspect` names the kernels instead.
    """
    _wanted("bitsandbytes", "int8-bitsandbytes")
    logging.getLogger("bitsandbytes.autograd._functions").addFilter(_no_cast_remark)
    warnings.filterwarnings("ignore", message="MatMul8bitLt: inputs will be cast", category=UserWarning)
    from transformers import BitsAndBytesConfig

    return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}


def _no_cast_remark(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("MatMul8bitLt: inputs will be cast")


@torch.no_grad()
def quantise(model: Any, scheme: str) -> Any:
    """`model`, every linear layer replaced as the torchao `scheme` says, in place. Raises Unsupported without torchao.

    int8-weight: weights by row, activations as they are. int8-dynamic: activations by token, too. int8-smoothquant: as
    the latter, with activation outliers moved into the weights (alpha 0.5) by what CALIBRATION_SHAPE seeded ids show.
    """
    _wanted("torchao", scheme)
    _check_linear(model, scheme)
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig, quantize_

    if scheme == "int8-weight":
        quantize_(model, Int8WeightOnlyConfig())
    elif scheme == "int8-dynamic":
        quantize_(model, Int8DynamicActivationInt8WeightConfig())
    else:
        from torchao.prototype.smoothquant import SmoothQuantConfig
        from torchao.quantization.quantize_.common.quantization_step import QuantizationStep

        base = Int8DynamicActivationInt8WeightConfig()
        quantize_(model, SmoothQuantConfig(base_config=base, step=QuantizationStep.PREPARE))
        vocabulary = int(model.config.get_text_config().vocab_size)
        ids = np.random.default_rng(0).integers(3, vocabulary, CALIBRATION_SHAPE)
        device = next(model.parameters()).device
        for start in range(0, len(ids), _AT_ONCE):
            model(input_ids=torch.from_numpy(ids[start : start + _AT_ONCE]).to(device), use_cache=False)
        quantize_(model, SmoothQuantConfig(base_config=base, step=QuantizationStep.CONVERT), filter_fn=_observed)
    return model


def _check_linear(model: Any, scheme: str) -> None:
    """Raises Unsupported on a model whose layers have no linear layer that torchao takes, such as GPT-2's."""
    head = model.get_output_embeddings()
    kinds = {type(m).__name__ for m in model.modules() if next(m.parameters(recurse=False), None) is not None}
    if not any(type(module) is torch.nn.Linear and module is not head for module in model.modules()):
        raise Unsupported(
            f"{scheme}: torchao quantises torch.nn.Linear, and the layers of {type(model).__name__} have none (they "
            f"have {', '.join(sorted(kinds))}); take accelerate with int8-bitsandbytes, or another scheme"
        )


def _observed(module: torch.nn.Module, name: str) -> bool:
    return type(module).__name__ == "SmoothQuantObservedLinear"


def _wanted(package: str, scheme: str) -> None:
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise Unsupported(
            f"{scheme} needs {package}, which cannot be imported here ({error}); pip install {package}"
        ) from error
