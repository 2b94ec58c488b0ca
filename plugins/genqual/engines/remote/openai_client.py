"""One client of an OpenAI-compatible server: streamed completions, stamped as they arrive. No torch.

The key is read from GENQUAL_API_KEY and goes nowhere else: not into a message, a log or a record.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Generator, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import openai

from genqual.engines.remote.openai_stream import Stream, short
from genqual.errors import BadInput, EngineFailed

__all__ = ["KEY", "SILENCE_S", "Client", "Stream"]

KEY: Final = "GENQUAL_API_KEY"
SILENCE_S: Final = 25.0  # a server that says nothing for so long has failed; below the deadline of the rank itself


class Client:
    """Greedy completions of one served model. `extras` are sent with each request.

    With `chat` the texts of prompts are sent as a user's message to `/chat/completions`, `length` being the name of
    what limits the answer there. `status` and `said` are of
    the last request that the server refused: its HTTP status (0: another end) and all that it answered.
    """

    def __init__(self, endpoint: str, model: str | None) -> None:
        self._where = f"{urlsplit(endpoint).scheme}://{urlsplit(endpoint).netloc}{urlsplit(endpoint).path}"
        self.extras: dict[str, Any] = {}
        self.model = model or ""
        self.chat, self.length = False, "max_tokens"
        self.status, self.said = 0, ""
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
        except (openai.AuthenticationError, openai.PermissionDeniedError, openai.APIConnectionError) as error:
            raise self._told(error) from None
        except Exception as error:  # noqa: BLE001 - as below
            status = f"{error.status_code} " if isinstance(error, openai.APIStatusError) else ""
            raise BadInput(
                f"{self._where}: its list of models cannot be had ({status}{self._clean(str(error))}), so name the "
                "model that it serves with --served-model"
            ) from None

    def complete(self, prompts: Sequence[str | list[int]], new_tokens: int, **more: Any) -> tuple[float, list[Stream]]:
        """All `prompts` at once, one request each with `more` in it: when the first was sent, and what came back.

        Raises BadInput when the server is not there, refuses the key or does not know the model, EngineFailed when it
        breaks off, falls silent or answers what is no stream of completions.
        """
        self.status, self.said = 0, ""
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
            pieces = aiter(await self._request(prompt, new_tokens, {**self.extras, **more}))
            now = 0.0
            while True:
                step = _Step(anext(pieces))
                try:
                    piece = await step
                except StopAsyncIteration:
                    break
                # What one read of the network brought arrived together, in however many pieces.
                now = time.perf_counter() if step.waited or not now else now
                got.take(piece, now, self._where)
        except EngineFailed:
            raise
        except Exception as error:  # noqa: BLE001 - the client's transport is not ours to name; all of it is told
            # Not chained: a server may echo the key, and a traceback would carry it into the rank's log.
            raise self._told(error, row=row, after=len(got.stamps)) from None
        return got

    async def _request(self, prompt: str | list[int], new_tokens: int, fields: dict[str, Any]) -> Any:
        if self.chat:
            messages: Any = [{"role": "user", "content": prompt}]
            fields = {self.length: new_tokens, **fields}
            return await self._client.chat.completions.create(
                model=self.model, messages=messages, stream=True, extra_body=fields
            )
        return await self._client.completions.create(
            model=self.model, prompt=prompt, max_tokens=new_tokens, stream=True, extra_body=fields
        )

    def _told(self, error: Exception, *, row: int = 0, after: int = 0) -> BadInput | EngineFailed:
        """What `error` means to the person who named this endpoint."""
        if isinstance(error, BadInput | EngineFailed):
            return error
        self.said = str(getattr(error, "body", None) or error)
        if isinstance(error, openai.APIStatusError):
            self.status = error.status_code
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
            return EngineFailed(f"{self._where} sent nothing for {SILENCE_S:.0f} s after {after} pieces of row {row}")
        if isinstance(error, openai.APIConnectionError) and not after:
            cause = self._clean(str(error.__cause__ or error))
            return BadInput(f"{self._where}: no connection ({cause}); is the server running, and is this its address?")
        what = self._clean(f"{type(error).__name__}: {error}")
        return EngineFailed(f"{self._where} broke off after {after} pieces of row {row}, or answered no stream: {what}")

    def _clean(self, text: str) -> str:
        key = os.environ.get(KEY)
        return short(text.replace(key, "***") if key else text)


class _Step:
    """Awaits one coroutine, and knows whether anything had to be waited for."""

    def __init__(self, coroutine: Awaitable[Any]) -> None:
        self._coroutine = coroutine
        self.waited = False

    def __await__(self) -> Generator[Any, Any, Any]:
        inner: Any = self._coroutine.__await__()
        try:
            future = next(inner)
            self.waited = True
            while True:
                try:
                    sent = yield future
                except BaseException as error:  # noqa: BLE001 - handed on to whom it is for
                    future = inner.throw(error)
                else:
                    future = inner.send(sent)
        except StopIteration as done:
            return done.value
