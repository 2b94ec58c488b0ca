"""What is said to a server, in full, what is left out when it refuses, and where it is said."""

from __future__ import annotations

import json
from typing import Any

import pytest

from genqual.conformance.oracle.registry import oracle_for
from genqual.engines.base import TokenBatch
from genqual.engines.remote.openai_request import CHAT, GREEDY, TELLING, RequestFields, suspicion
from genqual.engines.remote.openai_server import Server
from genqual.errors import BadInput, EngineFailed, Unsupported
from genqual.models import weights

from .fake_server import Handler, fault_free, next_tokens, serving
from .served_model import seen, served
from .test_server import MODEL, ROWS, load, servers

__all__ = ["servers"]

EXACT = {name: values[0] for name, values in GREEDY.items()}


def refuses(how: Any) -> Any:
    """As `honest`; `how(body)` is what is wrong with a request, a status and a text, or nothing."""

    def answer(handler: Handler, body: dict[str, Any]) -> None:
        wrong = how(body)
        if wrong:
            handler.whole(*wrong)
        else:
            fault_free(handler, body)

    return answer


def sent(servers: list[Server], how: Any) -> tuple[Server, dict[str, Any]]:
    """An engine on such a server, and its last request."""
    with serving(refuses(how)) as fake:
        engine = load(servers, fake.url)
        got = engine.generate(TokenBatch.of(ROWS), 3)
        _, body = fake.seen[-1]
    assert got.tokens.tolist() == [next_tokens(row, 3) for row in ROWS]
    return engine, body


def test_greedy_is_said_in_full(servers: list[Server]) -> None:
    engine, body = sent(servers, lambda body: None)
    assert {name: body[name] for name in EXACT} == EXACT
    assert EXACT | {"seed": 0} == {
        **{"temperature": 0.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "presence_penalty": 0.0, "seed": 0},
        **{"frequency_penalty": 0.0, "repetition_penalty": 1.0, "repeat_penalty": 1.0},
    }
    assert body["stream_options"] == {"include_usage": True}
    assert engine.inspect()["refused"] == []
    told: Any = engine.inspect()["generate"]
    assert told["repetition_penalty"] == 1.0


@pytest.mark.parametrize("status", [400, 422, 500])
@pytest.mark.parametrize("name", ["min_p", "repetition_penalty", "seed", "stream_options", "temperature", "top_p"])
def test_what_a_server_refuses_by_name_is_left_out_and_nothing_else(
    name: str, status: int, servers: list[Server]
) -> None:
    engine, body = sent(
        servers, lambda body: (status, {"error": {"message": f"Unknown field: '{name}'"}}) if name in body else None
    )
    assert engine.inspect()["refused"] == [name]
    assert {*EXACT, *TELLING} - body.keys() == {name}


def test_several_are_refused_one_after_the_other_or_all_at_once(servers: list[Server]) -> None:
    strange = ["min_p", "top_k", "repeat_penalty"]

    def one(body: dict[str, Any]) -> Any:
        names = [name for name in strange if name in body]
        return (400, {"error": {"message": f"extra field {names[0]}"}}) if names else None

    def all_of_them(body: dict[str, Any]) -> Any:
        wrong = [{"loc": ["body", name], "msg": "extra"} for name in strange if name in body]
        return (422, {"detail": wrong}) if wrong else None

    for how in (one, all_of_them):
        engine, body = sent(servers, how)
        assert set(strange) == set(engine.inspect()["refused"])  # type: ignore[arg-type]
        assert body["repetition_penalty"] == 1.0


def test_a_message_that_names_what_it_takes_costs_nothing_that_is_taken(servers: list[Server]) -> None:
    """All names stand in it; each is tried again alone."""

    def strict(body: dict[str, Any]) -> Any:
        known = "model, prompt, max_tokens, stream, temperature, top_p, presence_penalty, frequency_penalty, seed"
        strange = sorted(body.keys() - set(known.split(", ")))
        return (400, {"error": {"message": f"fields {strange} are not of {known}"}}) if strange else None

    engine, body = sent(servers, strict)
    assert body.keys() >= {"temperature", "top_p", "presence_penalty", "frequency_penalty", "seed"}
    assert {"top_k", "min_p", "repetition_penalty"} <= set(engine.inspect()["refused"])  # type: ignore[arg-type]


@pytest.mark.parametrize("status", [400, 422, 500])
def test_a_refusal_that_names_nothing_is_found_out_by_trying(status: int, servers: list[Server]) -> None:
    engine, body = sent(servers, lambda body: (status, {"detail": "bad request"}) if "min_p" in body else None)
    assert engine.inspect()["refused"] == ["min_p"]
    assert body["repetition_penalty"] == 1.0


def test_another_value_that_is_greedy_is_tried(servers: list[Server]) -> None:
    wrong = (400, {"error": {"message": "top_k must be -1 (disable), or at least 1"}})
    engine, body = sent(servers, lambda body: wrong if body.get("top_k") == 0 else None)
    assert body["top_k"] == -1
    assert engine.inspect()["refused"] == []


def test_a_part_of_a_name_is_not_the_name(servers: list[Server]) -> None:
    left = RequestFields({"top_p": (1.0,), "top_probabilities": (5,)})
    said = iter(["top_probabilities is unknown", ""])
    assert (
        left.settle(lambda: None if "top_probabilities" not in left.sent else BadInput("no"), lambda: next(said))
        is None
    )
    assert left.sent == {"top_p": 1.0}


def test_a_penalty_that_a_server_adds_is_overruled_or_suspected(servers: list[Server]) -> None:
    row = [3, 141, 59, 26]
    right = oracle_for(weights.config(MODEL), weights.read(MODEL)).greedy(row, 12).tolist()
    with served(penalty=3.0) as url:
        engine = load(servers, url)
        assert engine.generate(TokenBatch.of([row]), 12).tokens.tolist() == [right]
    with served(penalty=3.0, refuse=["repetition_penalty"]) as url:
        engine = load(servers, url)
        assert engine.generate(TokenBatch.of([row]), 12).tokens.tolist() != [right]
    refused: Any = engine.inspect()["refused"]
    assert "repetition_penalty" in suspicion(refused)
    assert "generation_config.json" in suspicion(refused)
    assert suspicion(["seed", "ignore_eos", "return_token_ids"]) == ""


@pytest.mark.parametrize("ignored", [[], ["repetition_penalty"]])
@pytest.mark.parametrize("penalty", [1.0, 3.0])
def test_a_penalty_that_is_taken_and_ignored_is_found_out(
    servers: list[Server], ignored: list[str], penalty: float
) -> None:
    with served(penalty=penalty, ignore=ignored) as url:
        engine = load(servers, url)
        before = len(seen(url))
        found = engine.unheeded()
        asked = seen(url)[before:]
        assert found == (["repetition_penalty", "repeat_penalty"] if ignored else [])
        assert [body["repetition_penalty"] for body in asked] == [1.0, 0.01, 2.0][: len(asked)]
        assert all(body["repetition_penalty"] == body["repeat_penalty"] for body in asked)
        assert engine.unheeded() == found
        assert len(seen(url)) == before + len(asked), "asked once"
        assert engine.client.extras["repetition_penalty"] == 1.0, "what is judged is greedy as before"
    assert "generation_config.json" in suspicion([], found or ["x"])
    assert suspicion([], []) == ""


def test_what_was_refused_is_not_asked_about(servers: list[Server]) -> None:
    with served(refuse=["repetition_penalty", "repeat_penalty"]) as url:
        engine = load(servers, url)
        before = len(seen(url))
        assert engine.unheeded() == []
        assert len(seen(url)) == before


@pytest.mark.parametrize("reasoning", ["", "reasoning_content", "reasoning"])
def test_who_has_a_chat_only_is_spoken_to_there(reasoning: str, servers: list[Server]) -> None:
    row = [3, 141, 59, 26]
    right = oracle_for(weights.config(MODEL), weights.read(MODEL)).greedy(row, 8).tolist()
    with served(chat_only=True, reasoning=reasoning, gap_s=0.06) as url:
        engine = load(servers, url)
        run = engine.generate(TokenBatch.of([row]), 8)
        last = seen(url)[-1]
    assert last["path"].endswith("/chat/completions")
    assert {*EXACT, *CHAT} <= last.keys()
    assert run.tokens.tolist() == [right]
    assert run.step_s[0] < run.step_s[-1] - 0.05, "the first token is the first of any field"
    assert engine.inspect()["endpoint_of"] == "chat"


def test_a_chat_gives_its_log_probabilities(servers: list[Server]) -> None:
    def chat(handler: Handler, body: dict[str, Any]) -> None:
        if "messages" not in body:
            handler.whole(404, {"detail": "Not Found"})
            return
        handler.begin()
        for token in (5, 6, 7):
            text = chr(0xE000 + token)
            pairs = [
                {"token": chr(0xE000 + token + n), "logprob": -0.5 - n} for n in range(body.get("top_logprobs", 0))
            ]
            more = {"logprobs": {"content": [{**pairs[0], "top_logprobs": pairs}]}} if pairs else {}
            handler.piece(delta={"content": text}, **more)
            if body["max_tokens"] == 2 and token == 6:
                break
        handler.raw("data: [DONE]\n\n")

    with serving(chat) as fake:
        engine = load(servers, fake.url)
        run = engine.generate_top(TokenBatch.of([[3, 4]]), 3, 5)
        _, body = fake.seen[-1]
    assert (body["logprobs"], body["top_logprobs"]) == (True, 5)
    assert run.top_ids is not None
    assert run.top_ids[:, 0, 0].tolist() == [5, 6, 7]


def test_a_chat_that_wraps_its_prompt_is_no_ground_for_a_verdict(servers: list[Server]) -> None:
    def wraps(handler: Handler, body: dict[str, Any]) -> None:
        if "messages" not in body:
            handler.whole(404, {"detail": "Not Found"})
            return
        handler.begin()
        handler.piece(delta={"content": chr(0xE005) * body["max_tokens"]})
        handler.raw(f"data: {json.dumps({'choices': [], 'usage': {'prompt_tokens': 9}})}\n\n")

    with serving(wraps) as fake, pytest.raises(Unsupported, match="read 9 tokens where row 0 has 4: its chat template"):
        load(servers, fake.url)


def test_a_newer_name_of_the_limit_is_taken(servers: list[Server]) -> None:
    def newer(handler: Handler, body: dict[str, Any]) -> None:
        if "messages" not in body:
            handler.whole(404, {"detail": "Not Found"})
        elif "max_tokens" in body:
            handler.whole(400, {"error": {"message": "'max_tokens' is not supported: use 'max_completion_tokens'"}})
        else:
            handler.begin()
            handler.piece(delta={"content": chr(0xE005) * body["max_completion_tokens"]})

    with serving(newer) as fake:
        run = load(servers, fake.url).generate(TokenBatch.of([[3, 4]]), 3)
    assert run.tokens.tolist() == [[5, 5, 5]]


def test_neither_endpoint_is_told_of_the_first(servers: list[Server]) -> None:
    with (
        serving(lambda handler, body: handler.whole(404, {"detail": f"nothing at {handler.path}"})) as fake,
        pytest.raises(BadInput, match=r"nothing at /v1/completions.*base URL"),
    ):
        load(servers, fake.url)


def test_a_list_of_models_that_cannot_be_had_is_got_round(servers: list[Server]) -> None:
    with served(no_list=True) as url:
        with pytest.raises(BadInput, match=r"list of models cannot be had \(500 .*Cache directory.*--served-model"):
            load(servers, url)
        engine = load(servers, url, served_model="llama-tiny")
        assert engine.generate(TokenBatch.of([[3, 4]]), 2).tokens.shape == (1, 2)


def test_an_error_inside_a_stream_names_its_field_too(servers: list[Server]) -> None:
    def answer(handler: Handler, body: dict[str, Any]) -> None:
        if "min_p" in body:
            handler.begin()
            handler.raw('data: {"error": {"message": "min_p is not for me"}}\n\n')
        else:
            fault_free(handler, body)

    with serving(answer) as fake:
        assert load(servers, fake.url).inspect()["refused"] == ["min_p"]


def test_a_server_that_is_broken_is_not_asked_for_ever(servers: list[Server]) -> None:
    with serving(lambda handler, body: handler.whole(500, {"error": {"message": "out of paper"}})) as fake:
        with pytest.raises(EngineFailed, match="out of paper"):
            load(servers, fake.url)
        assert len(fake.seen) <= 3
