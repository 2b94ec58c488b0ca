"""The oracle: what a model's logits are, by an implementation of our own. Pure: NumPy float64; no torch, no engine."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from numpy.typing import NDArray

from genqual.conformance.oracle_bloom import BloomOracle
from genqual.conformance.oracle_core import F64, I64
from genqual.conformance.oracle_llama import LlamaOracle
from genqual.errors import BadInput

__all__ = ["Oracle", "oracle_for", "source_sha256", "supported"]

_SOURCES: Final = ("oracle_core.py", "oracle_llama.py", "oracle_bloom.py")


class Oracle(Protocol):
    """Says what the logits of a model are. `independent` is False when it shares code with an engine under test."""

    @property
    def architecture(self) -> str: ...
    @property
    def independent(self) -> bool: ...
    @property
    def vocabulary(self) -> int: ...

    def logits(self, ids: Sequence[int] | I64) -> F64:
        """Logits (tokens, vocabulary) after each of `ids` (tokens,), teacher forced."""
        ...

    def greedy(self, prompt: Sequence[int] | I64, steps: int) -> I64:
        """The `steps` tokens (steps,) that follow `prompt` when the highest logit always wins."""
        ...


_ORACLES: Final[dict[str, Callable[..., Oracle]]] = {"bloom": BloomOracle, "llama": LlamaOracle}


def supported() -> tuple[str, ...]:
    """The `model_type`s that have an oracle of their own."""
    return tuple(sorted(_ORACLES))


def oracle_for(config: Mapping[str, object], weights: Mapping[str, NDArray[Any]], *, keep: bool = True) -> Oracle:
    """The oracle of `config` (a Hugging Face config.json, as a dict) over `weights` (Hugging Face names).

    `keep=False` converts each weight at every use: slower, but `weights` may be lazy and larger than memory.
    Raises BadInput on an architecture without an oracle, on options it does not implement, and on weights that are
    missing, left over or misshapen.
    """
    architecture = config.get("model_type")
    if architecture not in _ORACLES:
        raise BadInput(
            f"model_type {architecture!r}: genqual's own oracle knows {', '.join(supported())}; make this model's "
            f"reference with `genqual reference MODEL --by transformers` (fp32 on the CPU; its verdicts will say that it "
            f"is not independent)"
        )
    return _ORACLES[str(architecture)](config, weights, keep=keep)


def source_sha256() -> str:
    """SHA-256 of the oracles' source text, kept in each reference: which oracle said so."""
    digest = hashlib.sha256()
    for name in _SOURCES:
        digest.update((Path(__file__).parent / name).read_bytes())
    return digest.hexdigest()
