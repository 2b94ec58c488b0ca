"""The client of a server: what it sends, what it reads, and what it says of servers that are wrong."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from genqual.engines.base import LoadRequest, TokenBatch
from genqual.engines.remote import openai_client
from genqual.engines.remote.openai_server import Server
from genqual.errors import BadInput, EngineFailed, Unsupported
from genqual.models import token_text
from genqual.models.registry import resolve

from .fake_server import VOCABULARY, Handler, best_of, fault_free, generous, next_tokens, serving

MODEL = resolve("llama-tiny")
ROWS = [[3, 141, 59, 26], [535, 89, 79]]


@pytest.fixture
def servers() -> Iterator[list[Server]]:
    """Engines made by a test, to be closed after it."""
    made: list[Server] = []
    yield made
    for one in made:
        if one.model is not None:
            one.client.close()


def load(servers: list[Server], url: str, **options: Any) -> Server:
    engine = Server()
    servers.append(engine)
    given = {"endpoint": url, **options}
    engine.load(LoadRequest(MODEL, "fp32", "cpu", 0, 1, 0, 1, 1, given))
    return engine


def test_token_ids_go_in_and_come_out(servers: list[Server]) -> None:
    with serving() as fake:
        engine = load(servers, fake.url)
        got = engine.generate(TokenBatch.of(ROWS), 5)
    assert got.tokens.tolist() == [next_tokens(row, 5) for row in ROWS]
    assert (np.diff(got.step_s) > 0).all()
    assert 0 < got.step_s[0] < got.step_s[-1] < got.wall_s + 1e-6
    _, body = fake.seen[-1]
    assert (body["temperature"], body["stream"], body["max_tokens"]) == (0.0, True, 5)
    assert engine.inspect()["prompts_as"] == "token ids"
    assert "endpoint" not in engine.inspect()


def test_a_server_of_text_only_is_spoken_to_in_text(servers: list[Server]) -> None:
    def text_only(handler: Handler, body: dict[str, Any]) -> None:
        if not isinstance(body["prompt"], str) or "return_token_ids" in body:
            handler.whole(422, {"detail": "Unexpected fields in the request"})
            return
        prompt = token_text.tokenizer(MODEL).encode(body["prompt"]).ids
        text = "".join(chr(token_text.FIRST + token) for token in next_tokens(prompt, body["max_tokens"]))
        handler.begin()
        handler.piece(text=text[:3])  # three tokens at once
        for one in text[3:]:
            handler.piece(text=one)

    with serving(text_only) as fake:
        engine = load(servers, fake.url)
        got = engine.generate(TokenBatch.of(ROWS), 6)
    assert got.tokens.tolist() == [next_tokens(row, 6) for row in ROWS]
    assert (np.diff(got.step_s) > 0).all()
    assert engine.inspect()["prompts_as"] == "text"
    assert engine.inspect()["tokens_a_piece"] == 1.5


def test_rows_are_asked_for_at_the_same_time(servers: list[Server]) -> None:
    rows, most, together = 5, [0], [0]
    lock, all_here = threading.Lock(), threading.Event()

    def waits_for_the_others(handler: Handler, body: dict[str, Any]) -> None:
        with lock:
            together[0] += 1
            most[0] = max(most[0], together[0])
            if together[0] == rows:
                all_here.set()
        all_here.wait(30 if asking.is_set() else 0)
        with lock:
            together[0] -= 1
        fault_free(handler, body)

    asking = threading.Event()
    with serving(waits_for_the_others) as fake:
        engine = load(servers, fake.url)
        asking.set()
        engine.generate(TokenBatch.of([[3, 5]] * rows), 2)
    assert most == [rows]


def answers(status: int, body: Any) -> Any:
    return lambda handler, _: handler.whole(status, body)


def breaks_off(handler: Handler, body: dict[str, Any]) -> None:
    handler.begin()
    handler.piece(text="?", token_ids=[7])
    handler.raw('data: {"id": "x", "choi')
    handler.wfile.close()


def streams(*events: str) -> Any:
    def answer(handler: Handler, body: dict[str, Any]) -> None:
        handler.begin()
        for event in events:
            handler.raw(event)

    return answer


def gives(tokens: list[Any]) -> Any:
    def answer(handler: Handler, body: dict[str, Any]) -> None:
        handler.begin()
        handler.piece(text="?", token_ids=tokens)

    return answer


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (
            answers(404, {"error": {"message": "no model of that name"}}),
            BadInput,
            "no model of that name.*--served-model",
        ),
        (answers(401, {"error": {"message": "who are you"}}), BadInput, "refused the key.*GENQUAL_API_KEY"),
        (answers(500, {"error": {"message": "out of paper"}}), EngineFailed, "out of paper"),
        (answers(200, "<html>welcome</html>"), EngineFailed, "gave 0 tokens for row 0, 2 were asked for"),
        (answers(200, {"choices": "no list"}), EngineFailed, "gave 0 tokens"),
        (streams("data: {not json}\n\n"), EngineFailed, "broke off after 0 pieces|answered no stream"),
        (streams('data: {"error": {"message": "engine died"}}\n\n'), EngineFailed, "engine died"),
        (streams('data: {"hello": 1}\n\n'), EngineFailed, "something else than completions"),
        (streams('data: {"choices": [{"text": 5}]}\n\n'), EngineFailed, "neither text nor token ids"),
        (breaks_off, EngineFailed, "after 1 pieces of row 0|gave 1 tokens"),
        (gives([7]), EngineFailed, "gave 1 tokens for row 0, 2 were asked for"),
        (gives([7, 8, 9]), EngineFailed, "gave 3 tokens"),
        (gives([7, VOCABULARY]), EngineFailed, f"gave {VOCABULARY} at step 1 of row 0"),
        (gives([-1, 7]), EngineFailed, "gave -1 at step 0"),
        (gives(["a", "b"]), EngineFailed, "neither text nor token ids"),
    ],
)
def test_a_server_that_is_wrong_is_told_in_a_sentence(
    answer: Any, error: type[Exception], words: str, servers: list[Server]
) -> None:
    with serving(answer) as fake, pytest.raises(error, match=words):
        load(servers, fake.url)


def test_an_endpoint_that_is_down_is_named(servers: list[Server]) -> None:
    with serving() as fake:
        url = fake.url
    with pytest.raises(BadInput, match=rf"{url}: no connection .*is the server running"):
        load(servers, url)


def test_a_server_that_falls_silent_is_left(servers: list[Server], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_client, "SILENCE_S", 0.3)

    def silent(handler: Handler, body: dict[str, Any]) -> None:
        handler.begin()
        handler.piece(text="?", token_ids=[7])
        time.sleep(1.0)  # longer than the client waits

    with serving(silent) as fake, pytest.raises(EngineFailed, match="sent nothing for"):
        load(servers, fake.url)


@pytest.mark.parametrize(("models", "words"), [(("a", "b"), "it lists a, b"), ((), "it lists none")])
def test_the_served_model_must_be_known(models: tuple[str, ...], words: str, servers: list[Server]) -> None:
    with serving(models=models) as fake, pytest.raises(BadInput, match=f"{words}.*--served-model"):
        load(servers, fake.url)


def test_another_prompt_than_ours_is_no_ground_for_a_verdict(servers: list[Server]) -> None:
    def one_more(handler: Handler, body: dict[str, Any]) -> None:
        fault_free(handler, body)
        usage = {"prompt_tokens": len(body["prompt"]) + 1, "completion_tokens": 2, "total_tokens": 0}
        handler.raw(f'data: {{"choices": [], "usage": {str(usage).replace(chr(39), chr(34))}}}\n\n')

    # The stream's [DONE] comes last in `honest`; a server that adds to it afterwards is not heard, so end without it.
    def late(handler: Handler, body: dict[str, Any]) -> None:
        send, handler.raw = handler.raw, lambda text: None if "[DONE]" in text else send(text)  # type: ignore[method-assign]
        one_more(handler, body)

    with serving(late) as fake, pytest.raises(Unsupported, match="the server read 5 tokens where row 0 has 4"):
        load(servers, fake.url)


def test_the_key_is_sent_and_never_shown(servers: list[Server], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENQUAL_API_KEY", "sesame-1234")
    monkeypatch.setenv("OPENAI_API_KEY", "not-for-you")
    with serving() as fake:
        engine = load(servers, fake.url)
    assert {k.lower(): v for k, v in fake.seen[0][0].items()}["authorization"] == "Bearer sesame-1234"
    assert "sesame" not in str(engine.inspect())

    def echoes(handler: Handler, body: dict[str, Any]) -> None:
        handler.whole(400, {"error": {"message": f"bad key {handler.headers['Authorization']}"}})

    with serving(echoes) as fake, pytest.raises(BadInput) as caught:
        load(servers, fake.url)
    assert "sesame" not in str(caught.value)
    assert "***" in str(caught.value)
    assert "sesame" not in "".join(traceback.format_exception(caught.value))


def test_a_key_of_another_service_stays_here(servers: list[Server], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GENQUAL_API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "not-for-you")
    with serving() as fake:
        load(servers, fake.url)
    assert "not-for-you" not in str(fake.seen)


def test_nothing_but_tokens_is_shown(servers: list[Server]) -> None:
    with serving() as fake:
        engine = load(servers, fake.url)
    for ask in (
        lambda: engine.score(TokenBatch.of(ROWS), np.ones((2, 3), dtype=np.int64)),
        lambda: engine.score_prefill(TokenBatch.of(ROWS), np.ones((2, 3), dtype=np.int64)),
        engine.weight_hash,
        lambda: engine.between_steps(lambda: None),
    ):
        with pytest.raises(Unsupported, match="tokens only"):
            ask()


def told(servers: list[Server], answer: Any, best: int = 5) -> Any:
    """Of each step the best that was said of row 1, ids and log-probabilities; None where there are none."""
    with serving(answer) as fake:
        engine = load(servers, fake.url)
        got = engine.generate_top(TokenBatch.of(ROWS), 4, best)
    assert got.tokens.tolist() == [next_tokens(row, 4) for row in ROWS], "whatever is said of them, they are judged"
    if got.top_ids is None or got.top_logprobs is None:
        return None
    assert got.top_ids.shape == got.top_logprobs.shape
    assert got.top_ids.shape[:2] == (4, 2)
    return [
        list(zip(ids, values, strict=True))
        for ids, values in zip(got.top_ids[:, 1].tolist(), got.top_logprobs[:, 1].tolist(), strict=True)
    ]


ALL = [best_of(token, 5) for token in next_tokens(ROWS[1], 4)]


def test_log_probabilities_are_asked_for_in_runs_that_nobody_times(servers: list[Server]) -> None:
    assert told(servers, generous) == ALL
    with serving(generous) as fake:
        engine = load(servers, fake.url)
        engine.generate(TokenBatch.of(ROWS), 2)
        assert not [body for _, body in fake.seen if "logprobs" in body]
        engine.generate_top(TokenBatch.of(ROWS), 2, 5)
        _, body = fake.seen[-1]
    assert (body["logprobs"], body["return_tokens_as_token_ids"], body["ignore_eos"]) == (5, True, True)


@pytest.mark.parametrize("status", [400, 422, 500, 501])
@pytest.mark.parametrize("word", ["logprobs", "return_tokens_as_token_ids"])
def test_a_server_that_refuses_is_judged_by_its_tokens(word: str, status: int, servers: list[Server]) -> None:
    def refuses(handler: Handler, body: dict[str, Any]) -> None:
        if word in body:
            handler.whole(status, {"error": {"message": f"unexpected {word}"}})
            return
        generous(handler, body)

    assert told(servers, refuses) == (None if word == "logprobs" else ALL)


def says(make: Any) -> Any:
    """A server that says `make(token, count)` of each token as its `logprobs`."""

    def answer(handler: Handler, body: dict[str, Any]) -> None:
        handler.begin()
        for token in next_tokens(body["prompt"], body["max_tokens"]):
            more = {"logprobs": make(token, body["logprobs"])} if "logprobs" in body else {}
            handler.piece(text="?", token_ids=[token], **more)
        handler.raw("data: [DONE]\n\n")

    return answer


def by_text(token: int) -> str:
    return chr(token_text.FIRST + token)


def completion(token: int, pairs: Any, name: Any = by_text) -> dict[str, Any]:
    return {"tokens": [name(token)], "top_logprobs": [{name(other): value for other, value in pairs}]}


def chat(token: int, pairs: Any, /, **named: Any) -> dict[str, Any]:
    def one(other: int, value: Any) -> dict[str, Any]:
        return {**{key: name(other) for key, name in named.items()}, "logprob": value}

    return {"content": [{**one(token, -0.25), "top_logprobs": [one(*pair) for pair in pairs]}]}


@pytest.mark.parametrize(
    "make",
    [
        lambda token, n: completion(token, best_of(token, n)),
        lambda token, n: completion(token, reversed(best_of(token, n))),
        lambda token, n: completion(token, best_of(token, n + 1)),
        lambda token, n: chat(token, best_of(token, n), token=by_text),
        lambda token, n: chat(token, best_of(token, n), id=int, token=lambda _: "the same for all"),
    ],
    ids=["texts", "in another order", "one more", "chat with texts", "chat with ids"],
)
def test_texts_are_ids_where_they_stand_for_one(make: Any, servers: list[Server]) -> None:
    assert told(servers, says(make)) == ALL


def test_the_shortest_list_counts_for_all(servers: list[Server]) -> None:
    def fewer(token: int, n: int) -> dict[str, Any]:
        return completion(token, best_of(token, n - (token == next_tokens(ROWS[0], 1)[0])))

    assert told(servers, says(fewer)) == [pairs[:4] for pairs in ALL]
    assert told(servers, says(lambda token, n: completion(token, best_of(token, 2)))) == [pairs[:2] for pairs in ALL]


def test_a_number_that_is_none_is_for_the_judge_to_see(servers: list[Server]) -> None:
    pairs = told(servers, says(lambda token, n: completion(token, [*best_of(token, n), (token + n, float("nan"))])))
    assert [len(step) for step in pairs] == [5] * 4
    assert np.isnan([value for step in pairs for _, value in step]).sum() == 4


@pytest.mark.parametrize(
    "make",
    [
        lambda token, n: None,
        lambda token, n: [],
        lambda token, n: {"tokens": "x", "top_logprobs": None},
        lambda token, n: {"tokens": [by_text(token)], "top_logprobs": []},
        lambda token, n: {"tokens": [by_text(token)], "top_logprobs": [None]},
        lambda token, n: {"content": [5]},
        lambda token, n: {"content": [{"id": token, "logprob": -1.0}]},
        lambda token, n: completion(token, best_of(token, 1)),
        lambda token, n: completion(token, best_of(token, n), name=lambda other: f"word {other}"),
        lambda token, n: completion(token, best_of(token, n), name=lambda other: f" {by_text(other)}"),
        lambda token, n: completion(token, [(other, "much") for other, _ in best_of(token, n)]),
        lambda token, n: completion(token, [(other, None) for other, _ in best_of(token, n)]),
        lambda token, n: completion((token + 1) % VOCABULARY, best_of(token, n)),
        lambda token, n: chat(token, [*best_of(token, n), (token, -0.25)], id=int),
        lambda token, n: None if token == next_tokens(ROWS[1], 4)[2] else completion(token, best_of(token, n)),
    ],
)
def test_what_is_not_certain_is_left_out(make: Any, servers: list[Server]) -> None:
    assert told(servers, says(make)) is None


def test_a_server_that_breaks_off_has_not_refused(servers: list[Server]) -> None:
    def breaks(handler: Handler, body: dict[str, Any]) -> None:
        (breaks_off if "logprobs" in body else fault_free)(handler, body)

    with pytest.raises(EngineFailed, match=r"after 1 pieces|gave 1 tokens"):
        told(servers, breaks)
