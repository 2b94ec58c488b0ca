"""What a model's declaration says that a pass reads, for MBU and MFU. Reads its configuration, never its weights."""

from __future__ import annotations

from math import prod

from genqual.cases import compute_dtype
from genqual.conformance.oracle.registry import architecture_of
from genqual.errors import BadInput
from genqual.metrics.model_reads import ALL, ModelReads, Routed
from genqual.models import weights
from genqual.models.spec import ModelSpec


def reads_of(spec: ModelSpec, precision: str) -> ModelReads:
    """By the oracle's declaration of the architecture; `ALL` where there is none, or the files are elsewhere."""
    config = weights.config_if_here(spec)
    if config is None:
        return ALL
    try:
        model, _ = architecture_of(config).declared(config)
    except BadInput:
        return ALL
    routed = [found for block in model.blocks for part in block.parts() if (found := part.routed()) is not None]
    return ModelReads(
        weights=sum(prod(shape) for shape in model.shapes().values()),
        mixtures=tuple(Routed(*one) for one in routed),
        kept=lambda length: model.cache_bytes(length, 1),
        element_bytes=4 if compute_dtype(precision) == "fp32" else 2,
    )
