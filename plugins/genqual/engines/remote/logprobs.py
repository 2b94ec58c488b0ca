"""What a server says of its best tokens, in the two forms that there are, as ids where those are certain. No torch.

OpenAI's completions name tokens by their text. That is an id where the text stands for exactly one token of the model;
vLLM writes `token_id:N` when it is asked to, and llama.cpp gives an id beside each text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from genqual.errors import Unsupported
from genqual.models import token_text
from genqual.models.spec import ModelSpec

Name = int | str
Said = tuple[Name, list[tuple[Name, Any]]]
"""Of one token: how it is named, and the names and log-probabilities of the best at its step."""

ASKS: Final[tuple[dict[str, Any], ...]] = ({"return_tokens_as_token_ids": True}, {})
"""What is sent beside `logprobs`, in this order, until the server takes it."""

_ID: Final = re.compile(r"token_id:(\d+)")


def said(logprobs: Any) -> list[Said]:
    """The tokens of one piece of a stream; empty where it says nothing of them in a form that is known."""
    content = getattr(logprobs, "content", None)
    if isinstance(content, list):
        found = [_of_content(one) for one in content]
    else:
        tokens, best = getattr(logprobs, "tokens", None), getattr(logprobs, "top_logprobs", None)
        if not isinstance(tokens, list) or not isinstance(best, list) or len(tokens) != len(best):
            return []
        found = [
            (token, list(each.items())) if isinstance(token, str) and isinstance(each, dict) else None
            for token, each in zip(tokens, best, strict=True)
        ]
    return [one for one in found if one is not None]


def named(logprobs: Any) -> int:
    """How many tokens the log-probabilities of a piece are of; 0 where they are none, or of an unknown form."""
    for part in ("content", "tokens"):
        if isinstance(found := getattr(logprobs, part, None), list):
            return len(found)
    return 0


def as_ids(
    spec: ModelSpec, rows: Sequence[Sequence[Said]], tokens: NDArray[np.int64], best: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]] | tuple[None, None]:
    """Ids and log-probabilities (steps, rows, at most `best`), best first, of what was said of `tokens` (rows, steps).

    None of all where a token has nothing said of it or is named otherwise than it came, a name is not certain, or
    fewer than two are left at some step: then the run is judged by its tokens. Numbers are left as they are, nan too.
    """
    if any(len(one) != tokens.shape[1] for one in rows):
        return None, None
    cells = []
    for row, own in zip(rows, tokens, strict=True):
        for (name, pairs), token in zip(row, own, strict=True):
            read = [(_id(spec, other), value) for other, value in pairs]
            numbers = all(type(value) in (int, float) for _, value in read)
            ids = {one for one, _ in read}
            if _id(spec, name) != token or None in ids or len(ids) != len(read) or not numbers:
                return None, None
            # What is no number comes first, so that it is not cut off: it is for the judge to see.
            cells.append(sorted(read, key=lambda pair: -pair[1] if pair[1] == pair[1] else -np.inf))
    count = min(best, *(len(cell) for cell in cells))
    if count < 2:
        return None, None
    found = np.array([cell[:count] for cell in cells], dtype=np.float64).reshape(*tokens.shape, count, 2)
    found = found.swapaxes(0, 1)
    return found[..., 0].astype(np.int64), np.ascontiguousarray(found[..., 1])


def _of_content(one: Any) -> Said | None:
    """Of the chat's form: an object a token, with its own best below it."""
    one = one.model_dump() if hasattr(one, "model_dump") else one  # the client knows this form at the chat's endpoint
    if not isinstance(one, dict) or not isinstance(one.get("top_logprobs"), list):
        return None
    pairs = [(_name(other), other.get("logprob")) for other in one["top_logprobs"] if isinstance(other, dict)]
    return _name(one), pairs


def _name(one: dict[str, Any]) -> Name:
    return one["id"] if type(one.get("id")) is int else str(one.get("token"))


def _id(spec: ModelSpec, name: Name) -> int | None:
    """The one token of that name, or None."""
    if isinstance(name, int):
        return name
    if given := _ID.fullmatch(name):
        return int(given[1])
    try:
        return token_text.by_text(spec).get(name)
    except Unsupported:
        return None  # no tokenizer here
