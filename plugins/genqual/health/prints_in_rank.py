"""Checksums of the logits that a generation itself chooses its tokens from. In ranks only."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Iterator
from typing import Any, Final

import torch

_ODD: Final = 0x9E3779B97F4A7C15  # 2**64 over the golden ratio, which spreads neighbours far apart
_WORD: Final = 8  # bytes
_SIGNATURE: Final = inspect.Signature(
    [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ("self", "input_ids", "scores")]
)


class _Keep:
    """A logits processor that notes a checksum and returns the logits untouched.

    A class, since transformers asks for the signature of `__call__` at each step: that of a plain function is parsed
    from text each time, which took 3 % of llama-30m's step. `_SIGNATURE` saves what making one still takes.
    """

    def __init__(self, prints: list[str]) -> None:
        self._prints = prints

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self._prints.append(of_logits(scores))
        return scores

    __call__.__signature__ = _SIGNATURE  # type: ignore[attr-defined]


@contextlib.contextmanager
def step_prints(engine: Any) -> Iterator[list[str]]:
    """After a generation within: the checksum of each step's logits (rows, vocabulary), in the order of the steps.

    Taken where transformers' `generate` hands its logits to processors, so that no pass is hooked or compiled anew.
    Empty where an engine does not generate by transformers. `python -m tests.benchmarks.print_overhead` measures what
    it costs.
    """
    prints: list[str] = []
    right = getattr(engine, "run_generate", None)
    if right is None:
        yield prints
        return
    before = vars(engine).get("run_generate")

    keep = _Keep(prints)

    @functools.wraps(right)
    def watched(**inputs: Any) -> Any:
        inputs["logits_processor"].append(keep)
        return right(**inputs)

    engine.run_generate = watched
    try:
        yield prints
    finally:
        del engine.run_generate
        if before is not None:
            engine.run_generate = before


def of_logits(scores: torch.Tensor) -> str:
    """A checksum of 64 bits, in hexadecimal: the sum of all words of eight bytes, each times an odd number of its own.

    Modulo 2**64 an odd number has an inverse, so any change within one word changes the sum. Changes in several cancel
    as rarely as numbers of 64 bits are equal. Computed where `scores` are.
    """
    raw = scores.detach().contiguous().view(-1).view(torch.uint8)
    if rest := -raw.numel() % _WORD:
        raw = torch.nn.functional.pad(raw, (0, rest))
    words = raw.view(torch.int64)
    total = int((words * _factors(words.numel(), str(words.device))).sum().item())
    return f"{total % 2**64:016x}"


@functools.lru_cache(maxsize=8)
def _factors(count: int, device: str) -> torch.Tensor:
    """Odd numbers, one a word: 2 n + 1 times an odd constant, modulo 2**64."""
    constant = _ODD - 2**64  # the same, as torch's signed integers write it
    return (torch.arange(count, dtype=torch.int64, device=device) * 2 + 1) * constant
