"""What one request was answered, piece by piece as it arrived, and when each of its tokens was there. No torch.

A piece may hold several tokens (speculative decoding, a server that sends every so often), or none yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from genqual.engines.remote.logprobs import Said, named, said
from genqual.errors import EngineFailed

# Where a chat's piece has its text: what a model thinks comes first, and is as much of its output as the answer.
_TEXTS: Final = ("reasoning_content", "reasoning", "text", "content", "refusal")
_KNOWN: Final = frozenset({*_TEXTS, "role", "token_ids"})


@dataclass(slots=True)
class Stream:
    """What arrived for one prompt: pieces of text and of token ids, each with its time on this process's clock."""

    texts: list[str] = field(default_factory=list)
    ids: list[list[int]] = field(default_factory=list)
    stamps: list[float] = field(default_factory=list)
    best: list[Said] = field(default_factory=list)  # a token each, where log-probabilities were asked for and came
    named: list[int] = field(default_factory=list)  # tokens that the log-probabilities of each piece name
    totals: list[int | None] = field(default_factory=list)  # tokens so far by the usage of each piece, where it has one
    finish: str | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def take(self, piece: Any, now: float, where: str) -> None:
        """Add a `piece` that arrived at `now`. Raises EngineFailed on what is no piece of a completion."""
        total = self._use(piece)
        choices = _get(piece, "choices")
        if choices is None:
            raise EngineFailed(f"{where} answered something else than completions: {short(piece)}")
        for choice in choices:
            text, ids = _text(choice), _get(choice, "token_ids") or _get(_get(choice, "delta"), "token_ids") or []
            if not isinstance(text, str) or not all(type(one) is int for one in ids):
                raise EngineFailed(f"{where} answered a piece that is neither text nor token ids: {short(choice)}")
            logprobs = _get(choice, "logprobs")
            count = named(logprobs)
            self.best += said(logprobs)
            self.finish = _get(choice, "finish_reason") or self.finish
            # A token whose text is held back has arrived all the same, if a running count says so.
            before = self.totals[-1] if self.totals else 0
            counted = total is not None and before is not None and total > before
            if text or ids or count or (counted and not self.finish):
                self.texts.append(text)
                self.ids.append(list(ids))
                self.named.append(count)
                self.totals.append(total)
                self.stamps.append(now)

    def _use(self, piece: Any) -> int | None:
        """Read the usage of a piece: tokens generated so far, where it has one."""
        usage = _get(piece, "usage")
        if type(prompt := _get(usage, "prompt_tokens")) is int:
            self.prompt_tokens = prompt
        for cached in (
            _get(_get(usage, "prompt_tokens_details"), "cached_tokens"),
            _get(usage, "prompt_cache_hit_tokens"),
            _get(_get(piece, "timings"), "cache_n"),  # llama.cpp
        ):
            if type(cached) is int:
                self.cached_tokens = cached
                break
        total = _get(usage, "completion_tokens")
        return total if type(total) is int else None

    def counts(self, tokens: int) -> NDArray[np.int64] | None:
        """How many of `tokens` each piece had, by what the server says of it; None where that cannot be."""
        ways = [[len(ids) for ids in self.ids], self.named]
        totals = [total for total in self.totals if total is not None]
        if len(totals) == len(self.totals):
            ways.insert(1, np.diff([0, *totals]).tolist())
        if len(self.stamps) == 1:
            ways.append([tokens])
        for found in ways:
            if sum(found) == tokens and min(found, default=0) >= 0 and not self._late(found):
                return np.array(found, dtype=np.int64)
        return None

    def _late(self, counts: Sequence[int]) -> bool:
        """Whether text came before the piece that tells its tokens: then they are told in bulk, not as they arrive."""
        last = max((index for index, count in enumerate(counts) if count), default=0)
        return any(text and not count for text, count in zip(self.texts[:last], counts[:last], strict=True))

    def arrivals(self, tokens: int, ends: Sequence[int] | None) -> tuple[NDArray[np.float64], bool]:
        """When each of `tokens` was there, (tokens,), never falling, and whether that is known.

        `ends` are where they end in the text, characters, where the text was read as them. Where nothing tells, only
        the first and the last time are real.
        """
        stamps = np.array(self.stamps, dtype=np.float64)
        counts = self.counts(tokens)
        if counts is not None:
            return np.repeat(stamps, counts), True
        if ends is not None:
            until = np.cumsum([len(text) for text in self.texts])
            # A token is there when the piece that holds its last character is.
            return stamps[np.searchsorted(until, list(ends))], True
        if len(stamps) == tokens:
            return stamps, True
        return np.concatenate([stamps[:1], np.repeat(stamps[-1:], tokens - 1)]), False


def _text(choice: Any) -> Any:
    """All text of a piece, whatever its field is called; what is no text is given back to be refused."""
    found = ""
    for part in (choice, _get(choice, "delta")):
        for name in _TEXTS:
            value = _get(part, name)
            if value is not None and not isinstance(value, str):
                return value
            found += value or ""
    more = getattr(_get(choice, "delta"), "model_extra", None) or {}
    return found + "".join(value for name, value in more.items() if name not in _KNOWN and isinstance(value, str))


def _get(thing: Any, name: str) -> Any:
    """A member of an object of the client's, or of a plain one where the server's form is not the client's."""
    return thing.get(name) if isinstance(thing, dict) else getattr(thing, name, None)


def short(what: object) -> str:
    """At most 300 characters of it, on one line."""
    text = " ".join(str(what).split())
    return text if len(text) <= 300 else text[:300] + "..."
