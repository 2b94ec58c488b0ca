"""A server that speaks just enough of the completions API to be right, and every way to be wrong. No torch."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

VOCABULARY = 1024

Answer = Callable[["Handler", dict[str, Any]], None]


def next_tokens(prompt: list[int], count: int) -> list[int]:
    """What this server generates: each token is the sum of all before it."""
    row = list(prompt)
    for _ in range(count):
        row.append(sum(row) % VOCABULARY)
    return row[len(prompt) :]


class Handler(BaseHTTPRequestHandler):
    """Answers by its server's `answer`; HTTP/1.0, so a connection is a request."""

    server: Any

    def log_message(self, *args: Any) -> None:
        """Nothing: a test reads what it asked for."""

    def do_GET(self) -> None:
        self.whole(200, {"object": "list", "data": [{"id": name, "object": "model"} for name in self.server.models]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((dict(self.headers), body))
        self.server.answer(self, body)

    def whole(self, status: int, body: Any) -> None:
        """One answer that is no stream."""
        raw = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if isinstance(body, str) else "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def begin(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()

    def piece(self, **choice: Any) -> None:
        """One event of a stream."""
        event = {
            "id": "x",
            "object": "text_completion",
            "created": 0,
            "model": "m",
            "choices": [{"index": 0, **choice}],
        }
        self.raw(f"data: {json.dumps(event)}\n\n")

    def raw(self, text: str) -> None:
        self.wfile.write(text.encode())
        self.wfile.flush()


def fault_free(handler: Handler, body: dict[str, Any]) -> None:
    """Token ids in, token ids out."""
    handler.begin()
    for token in next_tokens(body["prompt"], body["max_tokens"]):
        handler.piece(text="?", token_ids=[token])
    handler.raw("data: [DONE]\n\n")


def best_of(token: int, count: int) -> list[tuple[int, float]]:
    """What this server says of its best tokens: the chosen one, and those after it, each less likely."""
    return [((token + n) % VOCABULARY, -0.25 - n) for n in range(count)]


def generous(handler: Handler, body: dict[str, Any]) -> None:
    """As `honest`, with log-probabilities as vLLM gives them."""
    handler.begin()
    for token in next_tokens(body["prompt"], body["max_tokens"]):
        more: dict[str, Any] = {}
        if "logprobs" in body:
            named = {f"token_id:{other}": value for other, value in best_of(token, body["logprobs"])}
            more = {"logprobs": {"tokens": [f"token_id:{token}"], "top_logprobs": [named]}}
        handler.piece(text="?", token_ids=[token], **more)
    handler.raw("data: [DONE]\n\n")


@contextmanager
def serving(answer: Answer = fault_free, models: tuple[str, ...] = ("only",)) -> Iterator[Any]:
    """A server on a free port, with `url` and the requests that it has `seen`."""
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.answer, server.models, server.seen = answer, models, []
    server.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
