"""What engines of the tokens tier have in common: they refuse what would need logits or weights. No torch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from genqual.engines.base import Loaded, LoadRequest, Scores, TokenBatch
from genqual.errors import EngineFailed, Unsupported
from genqual.models import weights
from genqual.spec import Json


class TokensOnly:
    """The half of the Engine protocol that needs more than tokens. `model` is what faults are injected into."""

    model: Any = None
    request: LoadRequest

    def score(self, batch: TokenBatch, forced: NDArray[np.int64], *, logits: bool = False) -> Scores:
        self._no("logits")

    def score_prefill(self, batch: TokenBatch, forced: NDArray[np.int64], *, logits: bool = False) -> Scores:
        self._no("logits")

    def between_steps(self, callback: Callable[[], None] | None) -> None:
        if callback is not None:
            self._no("its steps")

    def weight_hash(self) -> str:
        self._no("weights")

    def _no(self, what: str) -> NoReturn:
        raise Unsupported(f"{type(self).__name__.lower()} gives tokens only and does not show {what}")

    def loaded(self, *, load_s: float = 0.0, weight_bytes: int = 0, parameters: int = 0) -> Loaded:
        """What is known of a model that another process has loaded: the checkpoint's config, and what it said."""
        config: dict[str, Json] = weights.config(self.request.model)
        vocabulary, positions = config["vocab_size"], config.get("max_position_embeddings")
        if not isinstance(vocabulary, int):
            raise Unsupported(f"model {self.request.model.name}: its config has no vocab_size")
        claimed = f"claimed/{type(self).__name__}/{weights.sha256(self.request.model)}/{self.request.dtype}"
        return Loaded(
            load_s=load_s,
            weight_bytes=weight_bytes,
            parameters=parameters,
            vocabulary=vocabulary,
            max_positions=positions if isinstance(positions, int) else None,
            kv_bytes_per_token=0,
            weight_hash=hashlib.sha256(claimed.encode()).hexdigest(),  # of what it says it runs: nobody can look
        )


def checked(rows: list[list[int]], new_tokens: int, vocabulary: int, who: str) -> NDArray[np.int64]:
    """`rows` of tokens as (rows, new_tokens). Raises EngineFailed, naming row and step, on anything else."""
    for index, row in enumerate(rows):
        if len(row) != new_tokens:
            raise EngineFailed(f"{who} gave {len(row)} tokens for row {index}, {new_tokens} were asked for")
        for step, token in enumerate(row):
            if type(token) is not int or not 0 <= token < vocabulary:
                raise EngineFailed(f"{who} gave {token!r} at step {step} of row {index}; a token is below {vocabulary}")
    return np.array(rows, dtype=np.int64)
