"""One client of an OpenAI-compatible server: streamed completions, stamped as they arrive. No torch.

The key is read from GENQUAL_API_KEY and goes nowhere else: not into a message, a log or a record.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

import openai

from genqual.engines.server_top import Said, said
from genqual.errors import BadInput, EngineFailed

KEY: Final = "GENQUAL_API_KEY"
SILENCE_S: Final = 25.0  # a server that says nothing for so long has failed; below the deadline of the rank itself

# What some servers need to be told and others refuse: give token ids back, and do not stop at an end of text.
EXTRAS: Final[dict[str, Any]] = {"return_token_ids": True, "ignore_eos": True}


@dataclass(slots=True)
class Stream:
    """What arrived for one prompt: pieces of text and of token ids, each with its time on this process's clock."""

    texts: list[str] = field(default_factory=list)
    ids: list[list[int]] = field(default_factory=list)
    stamps: list[float] = field(default_factory=list)
    best: list[Said] = field(default_factory=list)  # a token each, where log-probabilities were asked for and came
    finish: str | None = None
    prompt_tokens: int | None = None

    @property
    def text(self) -> str:
        return "".join(self.texts)


class Client:
    """Greedy completions of one served model. `extras` are sent with each request."""

    def __init__(self, endpoint: str, model: str | None) -> None:
        self._where = f"{urlsplit(endpoint).scheme}://{urlsplit(endpoint).netloc}{urlsplit(endpoint).path}"
        self.extras: dict[str, Any] = {}
        self.model = model or ""
        limits = openai.Timeout(None, connect=10.0, read=SILENCE_S, write=SILENCE_S, pool=None)
        # One client on one event loop, so that connections are kept as real clients keep them. No retries: a retry
        # would be timed.
        self._loop = asyncio.Runner()
        self._client = openai.AsyncOpenAI(
            base_url=endpoint, api_key=os.environ.get(KEY) or "none", timeout=limits, max_retries=0
        )

    def close(self) -> None:
        """Leave the server's connections and the event loop in order."""
        self._loop.run(self._client.close())
        self._loop.close()

    def choose_model(self) -> None:
        """Find the served model where none was named. Raises BadInput, with the names, unless there is exactly one."""
        if self.model:
            return
        names = self._loop.run(self._names())
        if len(names) != 1:
            told = f"it lists {', '.join(sorted(names)[:8])}" if names else "it lists none"
            raise BadInput(f"{self._where}: which model? {told}; name one with --served-model")
        self.model = names[0]

    async def _names(self) -> list[str]:
        try:
            return [str(one.id) async for one in self._client.models.list()]
        except Exception as error:  # noqa: BLE001 - as below
            raise self._told(error) from None

    def complete(self, prompts: Sequence[str | list[int]], new_tokens: int, **more: Any) -> tuple[float, list[Stream]]:
        """All `prompts` at once, one request each with `more` in it: when the first was sent, and what came back.

        Raises BadInput when the server is not there, refuses the key or does not know the model, EngineFailed when it
        breaks off, falls silent or answers what is no stream of completions.
        """
        return self._loop.run(self._all(prompts, new_tokens, more))

    async def _all(
        self, prompts: Sequence[str | list[int]], new_tokens: int, more: dict[str, Any]
    ) -> tuple[float, list[Stream]]:
        start = time.perf_counter()
        found = await asyncio.gather(
            *(self._one(index, prompt, new_tokens, more) for index, prompt in enumerate(prompts)),
            return_exceptions=True,  # the others end first, so that nothing of theirs is left open
        )
        for one in found:
            if isinstance(one, BaseException):
                raise one
        return start, [one for one in found if isinstance(one, Stream)]

    async def _one(self, row: int, prompt: str | list[int], new_tokens: int, more: dict[str, Any]) -> Stream:
        got = Stream()
        try:
            pieces = await self._client.completions.create(
                model=self.model, prompt=prompt, max_tokens=new_tokens, temperature=0.0, stream=True,
                extra_body={**self.extras, **more},
            )  # fmt: skip
            async for piece in pieces:
                now = time.perf_counter()
                self._take(got, piece, now)
        except EngineFailed:
            raise
        except Exception as error:  # noqa: BLE001 - the client's transport is not ours to name; all of it is told
            # Not chained: a server may echo the key, and a traceback would carry it into the rank's log.
            raise self._told(error, row=row, after=len(got.stamps)) from None
        return got

    def _take(self, got: Stream, piece: Any, now: float) -> None:
        usage = getattr(piece, "usage", None)
        if usage is not None and isinstance(getattr(usage, "prompt_tokens", None), int):
            got.prompt_tokens = usage.prompt_tokens
        choices = getattr(piece, "choices", None)
        if choices is None:
            raise EngineFailed(f"{self._where} answered something else than completions: {_short(piece)}")
        for choice in choices:
            text, ids = getattr(choice, "text", None) or "", getattr(choice, "token_ids", None) or []
            if not isinstance(text, str) or not all(type(one) is int for one in ids):
                raise EngineFailed(
                    f"{self._where} answered a piece that is neither text nor token ids: {_short(choice)}"
                )
            got.best += said(getattr(choice, "logprobs", None))
            got.finish = getattr(choice, "finish_reason", None) or got.finish
            if text or ids:
                got.texts.append(text)
                got.ids.append(list(ids))
                got.stamps.append(now)

    def _told(self, error: Exception, *, row: int = 0, after: int = 0) -> BadInput | EngineFailed:
        """What `error` means to the person who named this endpoint."""
        if isinstance(error, BadInput | EngineFailed):
            return error
        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            return BadInput(f"{self._where} refused the key ({error.status_code}); set {KEY} in the environment")
        if isinstance(error, openai.APIStatusError):
            said = self._clean(f"{error.status_code} {error.response.reason_phrase}, {error.body or error.message}")
            if error.status_code < 500:
                return BadInput(
                    f"{self._where} refused the request for model {self.model or 'list'!r}: {said}. Is it the base URL"
                    " (it often ends in /v1), and is that its name there (--served-model)?"
                )
            return EngineFailed(f"{self._where} failed: {said}")
        if isinstance(error, openai.APITimeoutError) or "timeout" in type(error).__name__.lower():
            return EngineFailed(f"{self._where} said nothing for {SILENCE_S:.0f} s after {after} pieces of row {row}")
        if isinstance(error, openai.APIConnectionError) and not after:
            cause = self._clean(str(error.__cause__ or error))
            return BadInput(f"{self._where}: no connection ({cause}); is the server running, and is this its address?")
        what = self._clean(f"{type(error).__name__}: {error}")
        return EngineFailed(f"{self._where} broke off after {after} pieces of row {row}, or answered no stream: {what}")

    def _clean(self, text: str) -> str:
        key = os.environ.get(KEY)
        return _short(text.replace(key, "***") if key else text)


def _short(what: object) -> str:
    text = " ".join(str(what).split())
    return text if len(text) <= 300 else text[:300] + "..."
