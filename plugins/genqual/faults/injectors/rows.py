"""Faults of a batch: rows that reach each other, and results that depend on company. In ranks only."""

from __future__ import annotations

from typing import Any

import torch

from genqual.engines.base import Generated
from genqual.faults.injectors.places import Undo, output, places, replaced


def crossed(engine: Any, rank: int, *, when: str = "decode") -> Undo:
    """The logits of rows 0 and 1 change places, in decode steps or always."""

    def change(logits: torch.Tensor) -> torch.Tensor:
        if logits.shape[0] < 2 or (when == "decode" and logits.shape[1] > 1):
            return logits
        return torch.cat([logits[1:2], logits[0:1], logits[2:]])

    return output(engine, places(engine.model).head, change)


def mixed(engine: Any, rank: int, *, layer: int = 1, share: float = 0.01) -> Undo:
    """Each row holds `share` of the row before it."""

    def change(hidden: torch.Tensor) -> torch.Tensor:
        return hidden if hidden.shape[0] < 2 else hidden + share * hidden.roll(1, dims=0)

    return output(engine, places(engine.model).layer(layer).mlp_out, change)


def shared_scale(engine: Any, rank: int, *, layer: int = 1) -> Undo:
    """Activations are rounded to 8 bits by one scale for the whole batch: a row depends on its largest neighbour."""

    def change(hidden: torch.Tensor) -> torch.Tensor:
        if hidden.shape[0] < 2:
            return hidden
        step = hidden.abs().max() / 127
        return (hidden / step).round() * step

    return output(engine, places(engine.model).layer(layer).activation, change)


def by_index(engine: Any, rank: int, *, layer: int = 1, factor: float = 1.02) -> Undo:
    """Rows after the second come out `factor` too large: a kernel that is right for small batches only."""

    def change(hidden: torch.Tensor) -> torch.Tensor:
        return hidden if hidden.shape[0] < 3 else torch.cat([hidden[:2], hidden[2:] * factor])

    return output(engine, places(engine.model).layer(layer).mlp_out, change)


def by_padding(engine: Any, rank: int, *, layer: int = 1, tile: int = 64, factor: float = 1.02) -> Undo:
    """Passes of `tile` tokens and more come out `factor` too large: a kernel whose second tile is wrong."""

    def change(hidden: torch.Tensor) -> torch.Tensor:
        return hidden * factor if hidden.shape[1] >= tile else hidden

    return output(engine, places(engine.model).layer(layer).mlp_out, change)


def reversed_results(engine: Any, rank: int) -> Undo:
    """`generate` gives back its rows in the opposite order."""
    right = engine.generate

    def generate(batch: Any, new_tokens: int) -> Generated:
        found: Generated = right(batch, new_tokens)
        return Generated(found.tokens[::-1].copy(), found.step_s, found.wall_s, found.cpu_s)

    return replaced(engine, "generate", generate)
