"""The `server` engine: somebody's OpenAI-compatible server, seen by its client. No torch, and no look inside.

A batch is that many requests at the same time, each streamed; a step's time is when the last row's token arrived.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import openai
from numpy.typing import NDArray

from genqual.cases import Json
from genqual.engines.base import Generated, Loaded, LoadRequest, Memory, TokenBatch
from genqual.engines.remote.base import TokensOnly, checked
from genqual.engines.remote.logprobs import ASKS, as_ids
from genqual.engines.remote.openai_client import Client, Stream
from genqual.engines.remote.openai_request import (
    CHAT,
    GREEDY,
    PENALTIES,
    TELLING,
    TELLTALE,
    TEXT,
    RequestFields,
    named_in,
)
from genqual.errors import BadInput, EngineFailed, Unsupported
from genqual.models import token_text

PROBE: Final = [3, 5, 8, 13]  # what the handshake asks to go on from

PROBE_TOKENS: Final = 8  # of which one at least is written again where a penalty of 0.01 is heeded

_FORMS: Final = ((False, False), (True, False), (True, True))  # of a prompt: whether it is text, whether it is a chat
_NO_SUCH_PLACE: Final = frozenset({404, 405, 501})
_NOT_OF_FIELDS: Final = frozenset({401, 403, 408, 429, *_NO_SUCH_PLACE})


class Server(TokensOnly):
    """Options: `endpoint`, the base URL; `served_model`, the model's name there."""

    computes_here = False  # the CPU time of this process says nothing about the server's

    def __init__(self) -> None:
        self._as_text = self._settled = False
        self._must_chat = False
        self._pieces = self._tokens = 0
        self._fields = RequestFields()
        self._unheeded: list[str] | None = None

    def load(self, request: LoadRequest) -> Loaded:
        self.request = request
        endpoint, name = request.options.get("endpoint"), request.options.get("served_model")
        if not isinstance(endpoint, str):
            raise BadInput("server needs --endpoint URL, the base URL of a running OpenAI-compatible server")
        self.model = self.client = Client(endpoint, str(name) if name else None)
        self._known = self.loaded()
        self.client.choose_model()
        self._handshake()
        return self._known

    def _handshake(self) -> None:
        """Learn what the server takes and gives: token ids where it can, else text, else a chat."""
        errors: list[Exception] = []
        for as_text, chat in _FORMS:
            if chat < self._must_chat:
                continue
            parts = [GREEDY, TELLING, *([TEXT] if as_text else []), *([CHAT] if chat else [])]
            self._fields = RequestFields(*parts)
            self.client.chat, self.client.extras, self._as_text = chat, self._fields.sent, as_text
            try:
                error = self._fields.settle(self._ask, lambda: self.client.said)
            except (BadInput, EngineFailed, Unsupported) as other:
                errors.append(other)
                if self.client.status not in _NO_SUCH_PLACE:
                    break
                self._must_chat = True
            else:
                if error is None:
                    self._pieces = self._tokens = 0
                    self._settled = True
                    return
                errors.append(error)
                if self.client.status >= 500:
                    break
        # What is said of the chat says little where the server has none.
        raise errors[-2] if chat and len(errors) > 1 and self.client.status in _NO_SUCH_PLACE else errors[-1]

    def _ask(self) -> Exception | None:
        """A small request; why the server refused its fields, if it did. Raises what is wrong beyond them."""
        try:
            self.generate(TokenBatch.of([PROBE]), 2)
        except (BadInput, EngineFailed) as error:
            status, said = self.client.status, self.client.said
            if self.client.chat and self.client.length == "max_tokens" and "max_completion_tokens" in said:
                self.client.length = "max_completion_tokens"
                return self._ask()
            if (status >= 400 and status not in _NOT_OF_FIELDS) or named_in(said, self._fields.sent):
                return error
            raise
        return None

    def generate(self, batch: TokenBatch, new_tokens: int) -> Generated:
        """One request a row, all at once; tokens and their arrival."""
        return self._generate(batch, new_tokens, 0)

    def generate_top(self, batch: TokenBatch, new_tokens: int, best: int) -> Generated:
        """The same with log-probabilities asked for, which timed requests do not pay for; without, where it refuses."""
        wanted: dict[str, Any] = {"logprobs": True, "top_logprobs": best} if self.client.chat else {"logprobs": best}
        for asks in ASKS:
            try:
                return self._generate(batch, new_tokens, best, **wanted, **asks)
            except (BadInput, EngineFailed) as error:
                # Any answer of "no", a server's crash over it included: its tokens are judged all the same.
                if not isinstance(error, BadInput) and " failed: " not in str(error):
                    raise
        return self.generate(batch, new_tokens)

    def _generate(self, batch: TokenBatch, new_tokens: int, best: int, **more: Any) -> Generated:
        rows = batch.rows
        prompts: list[Any] = [token_text.text_of(self.request.model, row) for row in rows] if self._as_text else rows
        cpu = time.process_time()
        start, streams = self.client.complete(prompts, new_tokens, **more)
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
        read = [self._read(index, row, one) for index, (row, one) in enumerate(zip(rows, streams, strict=True))]
        tokens = checked([ids for ids, _ in read], new_tokens, self._known.vocabulary, "the server")
        arrived = [one.arrivals(new_tokens, ends) for one, (_, ends) in zip(streams, read, strict=True)]
        self._pieces += sum(len(one.stamps) for one in streams)
        self._tokens += tokens.size
        said = [one.best for one in streams]
        ids, logprobs = as_ids(self.request.model, said, tokens, best) if best else (None, None)
        return Generated(
            tokens,
            wall_s=wall,
            cpu_s=cpu,
            top_ids=ids,
            top_logprobs=logprobs,
            cached_tokens=_cached(streams),
            **_times(np.array([times for times, _ in arrived]) - start, [known for _, known in arrived], streams),
        )

    def _read(self, index: int, row: list[int], got: Stream) -> tuple[list[int], list[int] | None]:
        """The tokens of one stream, and where each ends in its text, where it was read as them.

        Raises where the server read another prompt.
        """
        if got.prompt_tokens is not None and got.prompt_tokens != len(row):
            what = f"the server read {got.prompt_tokens} tokens where row {index} has {len(row)}"
            if self._settled:
                raise EngineFailed(f"{what}: this is no answer to that request")
            who = "its chat template or tokenizer" if self.client.chat else "its tokenizer"
            raise Unsupported(
                f"{what}: {who} adds some or is another one, so the oracle and the server would go on from "
                "different texts"
            )
        given = [token for ids in got.ids for token in ids]
        if given and got.counts(len(given)) is not None:
            return given, None
        try:
            tokens, ends = token_text.tokens_of(
                self.request.model, token_text.text_of(self.request.model, row), got.text
            )
        except (Unsupported, EngineFailed):
            if not given:
                raise
            return given, None
        if given and given != tokens:
            return given, None  # the text alone does not tell these tokens
        return tokens, ends

    def unheeded(self) -> list[str]:
        """Penalties that the server takes and that change nothing, asked once: it need not say that it ignores them."""
        names: list[str] = [name for name in PENALTIES if name in self._fields.sent]
        if names and self._unheeded is None:
            batch = TokenBatch.of([PROBE])
            plain = self._generate(batch, PROBE_TOKENS, 0).tokens
            others = (self._generate(batch, PROBE_TOKENS, 0, **dict.fromkeys(names, value)) for value in TELLTALE)
            self._unheeded = names if all(np.array_equal(one.tokens, plain) for one in others) else []
        return self._unheeded or []

    def memory(self, *, reset: bool = False, trim: bool = False) -> Memory:
        return Memory(peak=0, current=0, source="a client does not see the server's memory")

    def inspect(self) -> dict[str, Json]:
        return {
            "engine": "server",
            "tier": "tokens",
            "client": f"openai {openai.__version__}",
            "served_model": self.client.model,
            "prompts_as": "text" if self._as_text else "token ids",
            "endpoint_of": "chat" if self.client.chat else "completions",
            "token_ids_given": bool(self.client.extras.get("return_token_ids")),
            "ignore_eos": bool(self.client.extras.get("ignore_eos")),
            "generate": dict(self.client.extras),
            "refused": list(self._fields.refused),
            "tokens_a_piece": round(self._tokens / self._pieces, 3) if self._pieces else None,
            "times": "of the client, network included; a step ends when the last row's token arrived",
        }


def unheeded_fields(engine: Any) -> dict[str, Json]:
    """The ability "fields": `unheeded`, what the server was sent and ignores."""
    return {"unheeded": list(engine.unheeded())}


def _cached(streams: Sequence[Stream]) -> NDArray[np.int64] | None:
    """Of each row the prompt's tokens that the server's cache answered; -1 where it does not say, None of none."""
    told = [-1 if one.cached_tokens is None else one.cached_tokens for one in streams]
    return np.array(told, dtype=np.int64) if max(told) >= 0 else None


def _times(arrivals: NDArray[np.float64], known: Sequence[bool], streams: Sequence[Stream]) -> dict[str, Any]:
    """Of `arrivals` (rows, steps): when the last row's token of each step was there, and what arrived together.

    Tokens of one piece are set a nanosecond apart, so that stamps rise.
    """
    times = np.maximum.accumulate(arrivals, axis=1).max(axis=0)
    pieces = np.concatenate([[0], np.cumsum(np.diff(times) > 0)])
    untold = ""
    if not all(known):
        row = list(known).index(False)
        untold = (
            f"row {row}: {arrivals.shape[1]} tokens arrived in {len(streams[row].stamps)} pieces, and the server does "
            "not say how many each had"
        )
    alone = bool(pieces[-1] == len(times) - 1)
    return {
        "step_s": times + np.arange(len(times)) * 1e-9,
        "pieces": None if alone or untold else pieces,
        "untold": untold,
    }
