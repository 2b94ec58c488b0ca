"""What engines of the tokens tier have in common: they refuse what would need logits or weights. No torch.

Some of them give the best log-probabilities of each step besides, when they are asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from genqual import digest
from genqual.cases import Json
from genqual.engines.base import Generated, Loaded, LoadRequest, Scores, TokenBatch
from genqual.errors import EngineFailed, Unsupported
from genqual.models import weights
from genqual.models.attention_shape import positions_of
from genqual.models.quantised import registry as quantised


class TokensOnly:
    """The half of the Engine protocol that needs more than tokens. `model` is what faults are injected into."""

    model: Any = None
    computes_here = True  # in this process or in one that it started
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
        if self.request.model.source == "directory":
            stored = weights.stored_config(self.request.model)
            quantised.check_activations(stored, self.request.model.name, self.request.dtype)
        vocabulary = config["vocab_size"]
        if not isinstance(vocabulary, int):
            raise Unsupported(f"model {self.request.model.name}: its config has no vocab_size")
        claimed = f"claimed/{type(self).__name__}/{weights.sha256(self.request.model)}/{self.request.dtype}"
        return Loaded(
            load_s=load_s,
            weight_bytes=weight_bytes,
            parameters=parameters,
            vocabulary=vocabulary,
            max_positions=positions_of(config),
            kv_bytes_per_token=0,
            weight_hash=digest.of_text(claimed),  # of what it says it runs: nobody can look
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


def checked_top(
    steps: list[Any], rows: int, vocabulary: int, who: str
) -> tuple[NDArray[np.int64], NDArray[np.float64]] | tuple[None, None]:
    """Ids and log-probabilities (steps, rows, best) of `steps`, each `[[[id, logprob], ...] a row]`; None of all None.

    As many pairs everywhere, two at least, no id twice, each number finite. Raises EngineFailed, naming step and row.
    """
    if all(one is None for one in steps):
        return None, None
    best = 0
    for step, lists in enumerate(steps):
        if not isinstance(lists, list) or len(lists) != rows:
            raise EngineFailed(f"{who} gave top {_short(lists)} at step {step}; wanted is a list a row, {rows}")
        for row, pairs in enumerate(lists):
            good = isinstance(pairs, list) and all(_is_pair(pair, vocabulary) for pair in pairs)
            best = best or (len(pairs) if good else 0)
            if not good or len(pairs) != best or best < 2 or len({pair[0] for pair in pairs}) != best:
                raise EngineFailed(
                    f"{who} gave top {_short(pairs)} at step {step} of row {row}; wanted are pairs [id, logprob], two "
                    f"at least and as many everywhere, each id once and below {vocabulary}, each number finite"
                )
    found = [[list(zip(*pairs, strict=True)) for pairs in lists] for lists in steps]
    ids, logprobs = ([[row[part] for row in lists] for lists in found] for part in (0, 1))
    return np.array(ids, dtype=np.int64), np.array(logprobs, dtype=np.float64)


def generate_top(
    engine: Any, *, ids: NDArray[np.int64], mask: NDArray[np.int64], new_tokens: int, best: int
) -> Generated:
    """The ability "top": a greedy run with, where the engine has them, the `best` log-probabilities of each step."""
    found: Generated = engine.generate_top(TokenBatch(ids, mask), new_tokens, best)
    return found


def _is_pair(pair: object, vocabulary: int) -> bool:
    if not isinstance(pair, list) or len(pair) != 2:
        return False
    token, value = pair
    return type(token) is int and 0 <= token < vocabulary and type(value) in (int, float) and math.isfinite(value)


def _short(what: object) -> str:
    text = " ".join(str(what).split())
    return text if len(text) <= 120 else text[:120] + "..."
