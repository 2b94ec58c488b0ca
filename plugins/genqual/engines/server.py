"""The `server` engine: somebody's OpenAI-compatible server, seen by its client. No torch, and no look inside.

A batch is that many requests at the same time, each streamed; a step's time is when the last row's token arrived.
"""

from __future__ import annotations

import time
from typing import Any, Final

import numpy as np
import openai

from genqual.engines.base import Generated, Loaded, LoadRequest, Memory, TokenBatch
from genqual.engines.server_client import EXTRAS, Client, Stream
from genqual.engines.server_top import ASKS, as_ids
from genqual.engines.tokens_only import TokensOnly, checked
from genqual.errors import BadInput, EngineFailed, Unsupported
from genqual.models import token_text
from genqual.spec import Json

PROBE: Final = [3, 5, 8, 13]  # what the handshake asks to go on from


class Server(TokensOnly):
    """Options: `endpoint`, the base URL; `served_model`, the model's name there."""

    computes_here = False  # the CPU time of this process says nothing about the server's

    def __init__(self) -> None:
        self._as_text = self._settled = False
        self._pieces = self._tokens = 0

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
        """Learn what the server takes and gives: token ids where it can, else text."""
        refusals = []
        for extras, as_text in ((EXTRAS, False), ({}, False), (EXTRAS, True), ({}, True)):
            self.client.extras, self._as_text = dict(extras), as_text
            try:
                self.generate(TokenBatch.of([PROBE]), 2)
            except (BadInput, EngineFailed, Unsupported) as error:
                refusals.append(error)
                if not isinstance(error, BadInput) or "refused the request" not in str(error):
                    break
            else:
                self._pieces = self._tokens = 0
                self._settled = True
                return
        raise refusals[-1]

    def generate(self, batch: TokenBatch, new_tokens: int) -> Generated:
        """One request a row, all at once; tokens and their arrival."""
        return self._generate(batch, new_tokens, 0)

    def generate_top(self, batch: TokenBatch, new_tokens: int, best: int) -> Generated:
        """The same with log-probabilities asked for, which timed requests do not pay for; without, where it refuses."""
        for asks in ASKS:
            try:
                return self._generate(batch, new_tokens, best, logprobs=best, **asks)
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
        arrivals = np.array([times for _, times in read]) - start
        self._pieces += sum(len(one.stamps) for one in streams)
        self._tokens += tokens.size
        said = [one.best for one in streams]
        ids, logprobs = as_ids(self.request.model, said, tokens, best) if best else (None, None)
        times = _in_order(arrivals).max(axis=0)
        return Generated(tokens, times, wall_s=wall, cpu_s=cpu, top_ids=ids, top_logprobs=logprobs)

    def _read(self, index: int, row: list[int], got: Stream) -> tuple[list[int], list[float]]:
        """The tokens of one stream and when each was complete. Raises where the server read another prompt."""
        if got.prompt_tokens is not None and got.prompt_tokens != len(row):
            what = f"the server read {got.prompt_tokens} tokens where row {index} has {len(row)}"
            if self._settled:
                raise EngineFailed(f"{what}: this is no answer to that request")
            raise Unsupported(
                f"{what}: its tokenizer adds some or is another one, so the oracle and the server would go on from "
                "different texts"
            )
        if any(got.ids):
            pairs = [(token, at) for ids, at in zip(got.ids, got.stamps, strict=True) for token in ids]
            return [token for token, _ in pairs], [at for _, at in pairs]
        prompt = token_text.text_of(self.request.model, row)
        tokens, ends = token_text.tokens_of(self.request.model, prompt, got.text)
        until = np.cumsum([len(text) for text in got.texts])
        # A token is there when the piece that holds its last character is.
        return tokens, [got.stamps[int(np.searchsorted(until, end))] for end in ends]

    def memory(self, *, reset: bool = False, trim: bool = False) -> Memory:
        return Memory(peak=0, current=0, source="a client does not see the server's memory")

    def inspect(self) -> dict[str, Json]:
        return {
            "engine": "server",
            "tier": "tokens",
            "client": f"openai {openai.__version__}",
            "served_model": self.client.model,
            "prompts_as": "text" if self._as_text else "token ids",
            "token_ids_given": bool(self.client.extras.get("return_token_ids")),
            "ignore_eos": bool(self.client.extras.get("ignore_eos")),
            "tokens_a_piece": round(self._tokens / self._pieces, 3) if self._pieces else None,
            "times": "of the client, network included; a step ends when the last row's token arrived",
        }


def _in_order(stamps: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(rows, steps) arrivals, each row strictly rising: tokens of one piece are set a nanosecond apart."""
    apart = np.arange(stamps.shape[1]) * 1e-9
    return np.asarray(np.maximum.accumulate(stamps, axis=1) + apart)
