"""When a server's tokens were there, where its pieces hold several, one, or none; and what its cache answered."""

from __future__ import annotations

import itertools
import time
from typing import Any

import numpy as np
import pytest

from genqual.cases import REPEATED, Workload
from genqual.engines.base import Generated, TokenBatch
from genqual.engines.remote.openai_server import Server
from genqual.engines.remote.openai_stream import Stream
from genqual.metrics.compute import Measured, compute
from genqual.models import token_text
from tests.performance.runs import rank, value

from .fake_server import Handler, next_tokens, serving
from .served_model import served
from .test_server import load, servers

__all__ = ["servers"]

SIZES = [16, 8, 4, 4]
ROW = [[3, 141, 59, 26]]


def of(run: Generated, *, hits: bool = False) -> dict[str, Measured]:
    return compute(
        [run], Workload(len(run.tokens), 4, run.tokens.shape[1], REPEATED if hits else ""), [rank()], hits=hits
    )


def stream(sizes: list[int], **told: Any) -> Stream:
    """What arrived in pieces of `sizes` tokens, 10 ms apart, with what the server `told` of each."""
    got = Stream()
    for index, count in enumerate(sizes):
        more = {name: value[index] for name, value in told.items() if name not in ("usage",)}
        choice = {"text": "?" * count, **more}
        piece = {
            "choices": [choice],
            **({"usage": {"completion_tokens": told["usage"][index]}} if "usage" in told else {}),
        }
        got.take(piece, 0.5 + 0.01 * index, "here")
    return got


def names(count: int) -> Any:
    from types import SimpleNamespace

    return SimpleNamespace(tokens=["a"] * count, top_logprobs=[{}] * count)


@pytest.mark.parametrize(
    "told",
    [
        {"token_ids": [[7] * size for size in SIZES]},
        {"usage": list(itertools.accumulate(SIZES))},
        {"logprobs": [names(size) for size in SIZES]},
        {"token_ids": [[], [], [], [7] * 32], "usage": list(itertools.accumulate(SIZES))},
    ],
    ids=["token ids", "running usage", "log-probabilities", "ids in bulk, running usage"],
)
def test_tokens_of_a_piece_are_counted_by_whatever_tells_them(told: dict[str, Any]) -> None:
    times, known = stream(SIZES, **told).arrivals(32, None)
    assert known
    assert np.unique(times, return_counts=True)[1].tolist() == SIZES


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"token_ids": [[], [], [], [7] * 32]},
        {"usage": [0, 0, 0, 32]},
        {"logprobs": [None, None, None, names(32)]},
        {"token_ids": [[7]] * 4},
    ],
    ids=["nothing", "ids in bulk", "usage at the end", "log-probabilities in bulk", "fewer than there are"],
)
def test_who_tells_tokens_in_bulk_does_not_tell_when_they_came(told: dict[str, Any]) -> None:
    times, known = stream(SIZES, **told).arrivals(32, None)
    assert not known
    assert (times[0], times[-1]) == (0.5, 0.53)


@pytest.mark.parametrize(
    ("piece", "stamps"),
    [
        ({"delta": {"role": "assistant", "content": ""}}, 0),
        ({"delta": {"reasoning_content": "a"}}, 1),
        ({"delta": {"reasoning": "a", "content": ""}}, 1),
        ({"delta": {"content": "a"}}, 1),
        ({"text": "", "token_ids": [5]}, 1),
        ({"delta": {"content": "", "token_ids": [5]}}, 1),
        ({"text": "", "logprobs": names(1)}, 1),
        ({"text": ""}, 0),
    ],
)
def test_the_first_token_counts_in_whatever_field_it_stands(piece: dict[str, Any], stamps: int) -> None:
    got = Stream()
    got.take({"choices": [piece]}, 1.0, "here")
    assert got.stamps == [1.0] * stamps


def test_a_field_of_text_that_nobody_has_heard_of_counts() -> None:
    from openai.types.chat import ChatCompletionChunk

    chunk = {"id": "x", "created": 0, "model": "m", "object": "chat.completion.chunk"}
    choice = {"index": 0, "delta": {"role": "assistant", "musings": "a"}, "finish_reason": None}
    got = Stream()
    got.take(ChatCompletionChunk.model_validate({**chunk, "choices": [choice]}), 1.0, "here")
    assert got.stamps == [1.0]


def in_pieces(**how: Any) -> Any:
    """A server whose `next_tokens` come in pieces of SIZES, 10 ms apart; as texts too, where `texts`."""

    def answer(handler: Handler, body: dict[str, Any]) -> None:
        tokens = next_tokens(body["prompt"], body["max_tokens"])
        sizes = SIZES if len(tokens) == 32 else [len(tokens)]
        handler.begin()
        at = 0
        for index, size in enumerate(sizes):
            time.sleep(0.01 if index else 0)
            some = tokens[at : at + size]
            at += size
            text = "".join(chr(token_text.FIRST + token) for token in some) if how.get("texts") else "?" * size
            ids = some if not how.get("late") else tokens if at == len(tokens) else []
            handler.piece(text=text, **({"token_ids": ids} if ids else {}))
        handler.raw("data: [DONE]\n\n")

    return answer


@pytest.mark.parametrize("how", [{}, {"texts": True}, {"texts": True, "late": True}], ids=str)
def test_tpot_is_of_the_tokens_after_the_first_piece(how: dict[str, Any], servers: list[Server]) -> None:
    """32 tokens in pieces of 16, 8, 4 and 4, 10 ms apart: 1.88 ms, where counting all of them would say 0.97."""
    with serving(in_pieces(**how)) as fake:
        run = load(servers, fake.url).generate(TokenBatch.of(ROW), 32)
    assert run.tokens.tolist() == [next_tokens(ROW[0], 32)]
    assert (np.diff(run.step_s) > 0).all()
    found = of(run)
    first = np.flatnonzero(run.pieces == 0).size if run.pieces is not None else 1
    after = run.step_s[-1] - run.step_s[0]
    assert first >= 16, "what came with the first piece, or in the same read as it"
    assert found["tpot"].value == pytest.approx(after / (32 - first))
    assert value(found["tpot"]) > 0.0012
    assert value(found["itl_p50"]) > 1e-4, "no gap of a nanosecond between tokens that came together"
    assert "pieces of up to" in found["tpot"].note
    assert "pieces of up to" in found["itl_p50"].note


def test_without_a_word_on_pieces_there_is_no_time_of_a_token(servers: list[Server]) -> None:
    with serving(in_pieces(late=True)) as fake:
        run = load(servers, fake.url).generate(TokenBatch.of(ROW), 32)
    found = of(run)
    for name in ("tpot", "itl_p50", "itl_p90", "itl_p99"):
        assert found[name].value is None
        assert "32 tokens arrived in" in found[name].note
        assert "does not say how many each had" in found[name].note
    for name in ("ttft", "e2e", "tokens_per_s"):
        assert found[name].value is not None


def test_events_of_one_write_arrive_together(servers: list[Server]) -> None:
    """Speculative decoding behind a server that makes an event of each token: bursts, and no gap inside one."""

    def bursts(handler: Handler, body: dict[str, Any]) -> None:
        tokens = next_tokens(body["prompt"], body["max_tokens"])
        handler.begin()
        events: list[str] = []
        send, handler.raw = handler.raw, events.append  # type: ignore[method-assign,assignment]
        for token in tokens:
            handler.piece(text="?", token_ids=[token])
        for at in range(0, len(events), 8):
            time.sleep(0.02)
            send("".join(events[at : at + 8]))
        send("data: [DONE]\n\n")

    with serving(bursts) as fake:
        run = load(servers, fake.url).generate(TokenBatch.of(ROW), 32)
    assert run.pieces is not None
    assert set(np.unique(run.pieces, return_counts=True)[1].tolist()) <= {8, 16, 24}
    assert (of(run)["itl_p50"].value or 0.0) > 0.001


def test_a_cache_that_answers_part_of_a_prompt_leaves_no_time_to_first_token(servers: list[Server]) -> None:
    with served(block=4, gap_s=0.02) as url:
        engine = load(servers, url)
        batch = TokenBatch.of([[3, 141, 59, 26, 7, 8, 9, 10, 11], [535, 89, 79]])
        first, second = engine.generate(batch, 3), engine.generate(batch, 3)
    assert first.cached_tokens is not None
    assert second.cached_tokens is not None
    assert first.cached_tokens.tolist() == [0, 0]
    assert second.cached_tokens.tolist() == [8, 0]
    assert of(first)["ttft"].value is not None
    found = of(second)
    assert found["ttft"].value is None
    assert "prefix cache answered 8 of the 4 prompt tokens of row 0" in found["ttft"].note
    assert found["tpot"].value is not None
    assert "prefix cache answered" in found["e2e"].note
    assert of(second, hits=True)["ttft"].value is None, "row 1 was no hit"
    assert "answered nothing of row 0" in of(first, hits=True)["ttft"].note


def test_who_does_not_say_what_its_cache_answered_is_not_asked_again(servers: list[Server]) -> None:
    with served(block=4, tell_cached=False) as url:
        engine = load(servers, url)
        run = engine.generate(TokenBatch.of(ROW), 3)
    assert run.cached_tokens is None
    assert of(run)["ttft"].value is not None
    assert of(run, hits=True)["ttft"].value is not None
