"""How near a transformers model's routers were to other experts, seen from outside: no architecture is named. In ranks.

A router is a linear over experts and a choice of the highest of what is made of it, `topk` or `max`. Both are seen by
a mode of torch, whoever calls them.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.overrides import TorchFunctionMode

_TOPK: Final = (torch.topk, torch.Tensor.topk)
_MAX: Final = (torch.max, torch.Tensor.max)
_GROUP_SLOPE: Final = 0.5
"""At most how fast the score of a group moves with its logits: two scores of at most 1/4 each."""


def margins(engine: Any, *, ids: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """`margins` (tokens, layers) of one row `ids` (1, tokens), relative as the oracle's; nothing without a router.

    Infinite in a layer without one. `logits` (tokens, vocabulary) of the same pass.
    """
    model = engine.model
    count = model.config.get_text_config().num_hidden_layers
    blocks = next((m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == count), ())
    seen = _Choices(ids.shape[1])
    handles = [block.register_forward_pre_hook(seen.enter(layer)) for layer, block in enumerate(blocks)]
    try:
        with torch.no_grad(), seen:
            logits = model(input_ids=torch.from_numpy(np.array(ids)), use_cache=False, return_dict=True).logits[0]
    finally:
        for handle in handles:
            handle.remove()
    found = {"logits": logits.to(torch.float64).numpy()}
    if seen.margins:
        # One column more where layers are not known: what is not known to be the last layer's reaches what follows.
        columns = torch.full((ids.shape[1], max(count, 1 + max(seen.margins))), torch.inf, dtype=torch.float64)
        for layer, nearest in seen.margins.items():
            columns[:, layer] = nearest
        found["margins"] = columns.numpy()
    return found


class _Choices(TorchFunctionMode):
    """Sees each linear over all tokens, and each choice of some of its outputs."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.tokens, self.layer = tokens, 0
        self.margins: dict[int, torch.Tensor] = {}
        self._linear: tuple[torch.Tensor, torch.Tensor] | None = None

    def enter(self, layer: int) -> Any:
        """A hook that says that `layer` begins."""

        def begin(module: Any, args: Any) -> None:
            self.layer, self._linear = layer, None

        return begin

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func is torch.nn.functional.linear:
            self._looked_at(out, *args, **kwargs)
        elif func in _TOPK:
            self._chosen(args[0], int(kwargs["k"] if "k" in kwargs else args[1]))
        elif func in _MAX and (len(args) > 1 or "dim" in kwargs):
            self._chosen(args[0], 1)
        return out

    def _looked_at(self, out: torch.Tensor, x: Any, weight: Any, bias: Any = None) -> None:
        if out.numel() != self.tokens * out.shape[-1] or out.shape[-1] > 4096:
            return  # of other rows than the tokens, or a head over the vocabulary
        squares = (x.double().reshape(self.tokens, -1) ** 2) @ (weight.double() ** 2).mean(dim=0)
        if bias is not None:
            squares = squares + (bias.double() ** 2).mean()
        self._linear = out.double().reshape(self.tokens, -1), squares.sqrt()

    def _chosen(self, values: torch.Tensor, k: int) -> None:
        if self._linear is None or values.numel() != self.tokens * values.shape[-1] or k >= values.shape[-1]:
            return
        (logits, scale), values = self._linear, values.double().reshape(self.tokens, -1)
        if logits.shape[1] % values.shape[1]:
            return
        nearest = _nearest(values, _slopes(values, logits), k) if _moved(values, logits) else _nearest(logits, None, k)
        relative = torch.where(scale > 0, nearest / scale, 0.0)
        known = self.margins.get(self.layer)
        self.margins[self.layer] = relative if known is None else torch.minimum(known, relative)


def _moved(values: torch.Tensor, logits: torch.Tensor) -> bool:
    """Whether `values` order the experts otherwise than their logits do: groups, corrections, masks."""
    if values.shape != logits.shape:
        return True
    ordered = logits.gather(1, values.argsort(dim=1, descending=True))
    return bool((ordered.diff(dim=1) > 0).any())


def _slopes(values: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """How fast each value moves with its own logit: of a softmax or a sigmoid, whichever fits up to a correction."""
    if values.shape != logits.shape:
        return torch.full_like(values, _GROUP_SLOPE)
    if bool((values.isinf() | (values == logits)).all()):  # the logits themselves, some of them masked
        return torch.ones_like(values)
    fits = []
    for scores, slopes in (
        (logits.sigmoid(), logits.sigmoid() * (1 - logits.sigmoid())),
        (logits.softmax(dim=1), logits.softmax(dim=1)),
    ):
        offset = (values - scores).masked_fill(values.isinf(), torch.nan)
        fits.append((float((offset - offset.nanmean(dim=0)).abs().nan_to_num().mean()), slopes))
    return min(fits, key=lambda fit: fit[0])[1]


def _nearest(values: torch.Tensor, slopes: torch.Tensor | None, k: int) -> torch.Tensor:
    """The smallest error of all logits that puts another in the place of one of the `k` highest, (tokens,)."""
    moves = torch.ones_like(values) if slopes is None else slopes
    order = values.argsort(dim=1, descending=True)
    high, low = (values.gather(1, part) for part in (order[:, :k], order[:, k:]))
    up, down = (moves.gather(1, part) for part in (order[:, :k], order[:, k:]))
    apart = high[:, :, None] - low[:, None, :]
    errors = torch.where(apart > 0, apart / (up[:, :, None] + down[:, None, :]), 0.0)
    return errors.amin(dim=(1, 2))
