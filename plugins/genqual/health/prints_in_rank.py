"""Digests of the logits that a generation itself chooses its tokens from. In ranks only."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch

from genqual import digest


@contextlib.contextmanager
def step_prints(engine: Any) -> Iterator[list[str]]:
    """After a generation within: the SHA-256 of each step's logits (rows, vocabulary), in the order of the steps.

    Taken where transformers' `generate` hands its logits to processors, so that no pass is hooked or compiled anew.
    Empty where an engine does not generate by transformers. Costs 0.3 % of llama-30m's TPOT on two EPYC cores
    (`python -m tests.benchmarks.print_overhead`).
    """
    prints: list[str] = []
    right = getattr(engine, "run_generate", None)
    if right is None:
        yield prints
        return
    before = vars(engine).get("run_generate")

    def keep(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        prints.append(of_logits(scores))
        return scores

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
    """The SHA-256 of the bytes of `scores`, row after row."""
    return digest.of_bytes(scores.detach().to("cpu").contiguous().view(torch.uint8).numpy().data)
