"""A real server of an embedded model, as a process: right by the oracle's arithmetic, and wrong on purpose by option.

`python -m tests.engines.served_model '{"pieces": [16, 8]}'` prints its port. It has a prefix cache, sends its tokens in
pieces, fills in a generation config, and refuses fields, as it is told. `/seen` lists what it was asked.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from genqual.conformance.oracle.registry import oracle_for
from genqual.models import token_text, weights
from genqual.models.registry import resolve

MODEL = "llama-tiny"


@dataclass
class How:
    """What this server does; every default is what a good one does."""

    block: int = 0  # of the prefix cache, tokens; 0: it has none
    tell_cached: bool = True
    prefill_s: float = 0.0  # a token that the cache does not answer
    pieces: list[int] = field(default_factory=list)  # tokens of each; the rest come one by one
    gap_s: float = 0.0
    ids: bool = True
    late_ids: bool = False  # all of them with the last piece
    bulk: bool = False  # the pieces without a space between them in time: one write for `pieces[0]` tokens
    penalty: float = 1.0  # of its generation_config.json
    refuse: list[str] = field(default_factory=list)
    ignore: list[str] = field(default_factory=list)  # taken, and without effect
    refusal: str = "unexpected field {name}"
    chat_only: bool = False
    reasoning: str = ""  # the field that the first half of a chat's answer has
    no_list: bool = False
    top: bool = True  # log-probabilities where they are asked for
    wrong: str = ""  # "prefix": from a cached prefix; "beside": when another request runs; "again": a prompt twice


class Model:
    """The oracle's logits, and what was asked before."""

    def __init__(self, how: How) -> None:
        spec = resolve(MODEL)
        self.how, self.spec = how, spec
        self.oracle: Any = oracle_for(weights.config(spec), weights.read(spec))
        self.known: list[list[int]] = []
        self.asked: set[tuple[int, ...]] = set()
        self.running = 0
        self.lock = threading.Lock()

    def cached(self, prompt: list[int]) -> int:
        """Tokens of whole blocks that an earlier request left; the last token is always computed."""
        if not self.how.block:
            return 0
        most = 0
        for row in self.known:
            same = next((i for i, (a, b) in enumerate(zip(row, prompt, strict=False)) if a != b), len(prompt))
            most = max(most, min(same, len(row), len(prompt) - 1))
        return most // self.how.block * self.how.block

    def answer(self, prompt: list[int], count: int, penalty: float, best: int, *, with_fault: bool) -> list[Any]:
        """(token, its best with log-probabilities) of each step."""
        row, found, cache, new = list(prompt), [], self.oracle.cache(), np.array(prompt)
        for _ in range(count):
            logits = np.array(self.oracle.head(self.oracle.states(new, cache)[-1:])[0])
            if with_fault:
                logits = np.roll(logits, 1)
            seen = np.unique(row)
            if penalty != 1.0:
                logits[seen] = np.where(logits[seen] > 0, logits[seen] / penalty, logits[seen] * penalty)
            logprobs = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
            order = np.argsort(-logprobs)[:best]
            row.append(int(logits.argmax()))
            new = np.array(row[-1:])
            found.append((row[-1], [(int(token), float(logprobs[token])) for token in order]))
        return found


class Handler(BaseHTTPRequestHandler):
    """Two endpoints; HTTP/1.0, so a connection is a request."""

    server: Any

    def log_message(self, *args: Any) -> None:
        """Nothing."""

    def whole(self, status: int, body: Any) -> None:
        raw = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def do_GET(self) -> None:
        if self.path == "/seen":
            self.whole(200, self.server.seen)
        elif self.server.how.no_list:
            self.whole(500, {"error": {"message": "Cache directory not found"}})
        else:
            self.whole(200, {"object": "list", "data": [{"id": MODEL, "object": "model"}]})

    def do_POST(self) -> None:
        how: How = self.server.how
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        chat = self.path.endswith("/chat/completions")
        self.server.seen.append({"path": self.path, **body})
        if how.chat_only and not chat:
            self.whole(404, {"detail": "Not Found"})
            return
        for name in how.refuse:
            if name in body:
                self.whole(400, {"error": {"message": how.refusal.format(name=name)}})
                return
        self._stream(body, chat=chat)

    def _stream(self, body: dict[str, Any], *, chat: bool) -> None:
        how, model = self.server.how, self.server.model
        given = "".join(message["content"] for message in body["messages"]) if chat else body["prompt"]
        prompt = token_text.tokenizer(model.spec).encode(given).ids if isinstance(given, str) else given
        count = body.get("max_tokens") or body["max_completion_tokens"]
        best = (body.get("top_logprobs", 0) if chat else body.get("logprobs", 0)) if how.top else 0
        with model.lock:
            cached, again = model.cached(prompt), tuple(prompt) in model.asked
            model.asked.add(tuple(prompt))
            model.running += 1
        time.sleep(0.03 if how.wrong == "beside" else 0)  # so that others come beside
        with_fault = {"prefix": cached > 0, "beside": model.running > 1, "again": again}.get(how.wrong, False)
        penalty = {name: value for name, value in body.items() if name not in how.ignore}.get(
            "repetition_penalty", how.penalty
        )
        with model.lock:
            steps = model.answer(prompt, count, penalty, best, with_fault=with_fault)
            model.known.append(prompt + [token for token, _ in steps])
        time.sleep(how.prefill_s * (len(prompt) - cached))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self._pieces(steps, body, chat=chat)
        usage: dict[str, Any] = {"prompt_tokens": len(prompt), "completion_tokens": count, "total_tokens": 0}
        if how.tell_cached:
            usage["prompt_tokens_details"] = {"cached_tokens": cached}
        if body.get("stream_options", {}).get("include_usage"):
            self._say({"id": "x", "object": "text_completion", "created": 0, "choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")
        with model.lock:
            model.running -= 1

    def _pieces(self, steps: list[Any], body: dict[str, Any], *, chat: bool) -> None:
        how: How = self.server.how
        sizes = [*how.pieces, *itertools.repeat(1, len(steps))]
        if chat:
            self._say({"id": "x", "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
        at, events = 0, []
        for size in sizes:
            some = steps[at : at + size]
            if not some:
                break
            text = "".join(chr(token_text.FIRST + token) for token, _ in some)
            choice: dict[str, Any] = {"index": 0}
            if chat:
                thinks = how.reasoning and at < len(steps) // 2
                choice["delta"] = {how.reasoning if thinks else "content": text}
            else:
                choice["text"] = text
            last = at + size >= len(steps)
            if how.ids and body.get("return_token_ids") and (last or not how.late_ids):
                choice["token_ids"] = [token for token, _ in (steps if how.late_ids else some)]
            if some[0][1]:
                names = [{f"token_id:{token}": value for token, value in pairs} for _, pairs in some]
                choice["logprobs"] = {"tokens": [f"token_id:{token}" for token, _ in some], "top_logprobs": names}
            events.append({"id": "x", "object": "text_completion", "created": 0, "choices": [choice]})
            at += size
        for index, event in enumerate(events):
            if index and not (how.bulk and index < how.pieces[0]):
                time.sleep(how.gap_s)
            self._say(event)

    def _say(self, event: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
        self.wfile.flush()


@contextlib.contextmanager
def served(**how: Any) -> Iterator[str]:
    """A server in a process of its own; its base URL. Ended with the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.engines.served_model", json.dumps(how)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
    finally:
        process.terminate()
        process.communicate()


def seen(url: str) -> list[dict[str, Any]]:
    """What the server was asked so far, in order."""
    with urllib.request.urlopen(url.removesuffix("/v1") + "/seen") as answer:
        found: list[dict[str, Any]] = json.load(answer)
    return found


def main() -> None:
    """Serve until ended."""
    how = How(**json.loads(sys.argv[1]))
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.how, server.seen, server.model = how, [], Model(how)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
