"""Weights from integers: the same bits on every machine, exact in bf16. Pure: NumPy and hashlib only.

Pseudo-random generators of frameworks are not portable (`torch.randn` differs between ATen's scalar and vector paths),
so SHAKE-128 of a parameter's name gives odd 8-bit integers, scaled by powers of two. Eight significant bits survive
bf16, fp16 and fp32 alike, and being odd none is zero.

What the scales are chosen for, and tests/models/test_embedded_behaviour.py holds:

- Greedy runs do not collapse. BLOOM's MLP writes small and its biases are small, because the mean of GELU and the
  biases push every context towards the same few tokens; Llama's keys are small, which keeps softmax from amplifying
  rounding. Norm weights spread over 0.5 to 1.5 and no bias is zero, so a norm left out or a bias added twice shows.
- Quantisation shows. A few channels of the residual stream are large, as in trained models: the rows that write them
  are scaled by 2^`writers`, the norms bring them back, and the columns that read them are larger by 2^READERS. One
  scale a tensor is stretched by the rows; one a row escapes the rows but not the columns. Without these channels int8 a
  row, int8 a tensor and bf16 all erred alike (ratios to bf16 0.8 to 1.1).

Measured, 8 prompts, int8 weights against float64, nrms as a ratio to bf16's (SmolLM2-135M: 2.4 a row, 10.3 a tensor):
bloom-tiny 2.0 and 6.9, llama-tiny 2.6 and 9.3, bloom-30m 1.8 and 9.0, llama-30m 3.1 and 10.9.

The models of `recipes.OWN` have small embeddings, as trained models do: the epsilon of the first norm then shows in
their logits, and an engine with another one is found.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from genqual.models import embedded
from genqual.models.recipes import OWN, Recipe, own_recipe, recipe

__all__ = ["Recipe", "outliers", "recipe", "state", "tensor", "tensors"]


def tensor(name: str, shape: tuple[int, ...], recipe: Recipe, *, outliers: tuple[int, ...] = ()) -> NDArray[np.float32]:
    """The parameter `name` of `shape`: float32, C order, every value exact in bf16 and never zero.

    `outliers` are the channels that `recipe.rows` and `recipe.columns` scale. A norm's weights (`around_one`) are
    (128 + odd integer in [-63, 63]) / 128, others odd integers in [-255, 255], both times 2^exponent.
    """
    count = int(np.prod(shape))
    stream = hashlib.shake_128(f"genqual/{name}".encode()).digest(count)
    raw = np.frombuffer(stream, dtype=np.uint8).astype(np.float32)
    # Every step is exact in float32: integers below 2^9, then powers of two.
    values = (raw % 64 * 2 + 65) / 128 if recipe.around_one else raw * 2 - 255
    weights = (values * np.float32(2.0**recipe.exponent)).astype(np.float32).reshape(shape)
    if recipe.rows:
        weights[list(outliers)] *= np.float32(2.0**recipe.rows)
    if recipe.columns:
        weights[..., list(outliers)] *= np.float32(2.0**recipe.columns)
    return weights


def outliers(hidden: int) -> tuple[int, ...]:
    """The channels of the residual stream that are large in every layer: one in 128, at least two."""
    wanted = max(2, hidden // 128)
    stream = hashlib.shake_128(f"genqual/outliers/{hidden}".encode()).digest(256)
    candidates = (int(word) % hidden for word in np.frombuffer(stream, dtype="<u4"))
    return tuple(sorted(list(dict.fromkeys(candidates))[:wanted]))


def tensors(config_name: str) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Every parameter of an embedded model, one at a time, under transformers' names."""
    config = embedded.config(config_name)
    architecture, hidden = str(config["model_type"]), embedded.size(config, "hidden_size")
    channels, rules = outliers(hidden), OWN.get(config_name)
    for name, shape in embedded.shapes(config_name).items():
        chosen = own_recipe(rules, name) if rules else recipe(architecture, name, hidden)
        yield name, tensor(name, shape, chosen, outliers=channels)


def state(config_name: str) -> dict[str, NDArray[np.float32]]:
    """All parameters of an embedded model: name -> float32 array. Raises BadInput on an unknown name."""
    return dict(tensors(config_name))
