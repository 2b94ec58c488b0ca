"""Faults between the logits and the text: samplers, stopping, padding. In ranks only."""

from __future__ import annotations

from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessorList

from genqual.errors import BadInput
from genqual.faults.injectors.places import Undo, replaced


class _Second:
    """Leaves the second best token where it is near the best, or where a token was written before."""

    def __init__(self, gap: float, penalty: float) -> None:
        self._gap, self._penalty = gap, penalty

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = scores.clone()
        if self._penalty != 1.0:
            seen = scores.gather(1, input_ids)
            return scores.scatter(1, input_ids, torch.where(seen > 0, seen / self._penalty, seen * self._penalty))
        best = scores.topk(2, dim=-1)
        near = (best.values[:, 0] - best.values[:, 1]) < self._gap
        scores[near, best.indices[near, 0]] = -torch.inf
        return scores


def _loop(engine: Any) -> Any:
    """The one place where tokens are chosen. Raises BadInput where the engine chooses them elsewhere."""
    found = getattr(engine, "run_generate", None)
    if found is None:
        raise BadInput(f"{type(engine).__name__} has no `run_generate`: no place for this fault")
    return found


def sampler(
    engine: Any, rank: int, *, gap: float = 0.0, penalty: float = 1.0, below: int = 0, on_rank: int | None = None
) -> Undo:
    """The choice is not greedy: the second best wins where it is within `gap`, or what was written before is penalised.

    Only where the engine generates freely: scoring has a processor of its own. With `below`, only in runs of fewer
    new tokens.
    """
    right = _loop(engine)
    if on_rank not in (None, rank):
        return lambda: None

    def run_generate(**inputs: Any) -> Any:
        own = list(inputs.pop("logits_processor", None) or [])
        forcing = any(type(one).__name__ == "ForcingProcessor" for one in own)
        short = not below or (inputs["generation_config"].max_new_tokens or below) < below
        added = [_Second(gap, penalty)] if short and not forcing else []
        return right(**inputs, logits_processor=LogitsProcessorList([*own, *added]))

    return replaced(engine, "run_generate", run_generate)


def stopping(
    engine: Any,
    rank: int,
    *,
    ignore_eos: bool = False,
    late: int = 0,
    pad: int | None = None,
    ignore_least: bool = False,
    more: int = 0,
    ignore_strings: bool = False,
) -> Undo:
    """A run does not end as asked: `late` tokens after its end of text, padded with another id, `more` tokens long."""
    right = _loop(engine)

    def run_generate(**inputs: Any) -> Any:
        config: GenerationConfig = inputs["generation_config"]
        eos, length = config.eos_token_id, inputs["input_ids"].shape[1]
        asked = eos is not None or inputs.get("stop_strings") or config.max_length not in (None, 20)
        if ignore_eos or late:
            config.eos_token_id = None
        if pad is not None and eos is not None:
            config.pad_token_id = pad
        if ignore_least:
            config.min_new_tokens = None
        if more and asked and config.max_length:
            config.max_length += more
        if ignore_strings:
            inputs.pop("stop_strings", None)
            inputs.pop("tokenizer", None)
        out = right(**inputs)
        if late and eos is not None:
            ended = torch.isin(out[:, length:], torch.tensor(eos)).cumsum(1) > 0
            first = late + 1  # places from an end of text to the first padding; one would be right
            out[:, length + first :] = torch.where(
                ended[:, :-first], torch.as_tensor(config.pad_token_id), out[:, length + first :]
            )
        return out

    return replaced(engine, "run_generate", run_generate)
