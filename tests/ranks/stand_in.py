"""A torch-free engine with known answers, and the ways it can fail. Runs in the ranks of these tests only."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from genqual.cases import Json
from genqual.engines.base import Generated, Loaded, LoadRequest, Memory, Scores, TokenBatch
from genqual.engines.projection import TOP, project
from genqual.errors import OutOfMemory, Unsupported

VOCABULARY = 61
EVERY = -1


def expected_tokens(batch: TokenBatch, new_tokens: int) -> NDArray[np.int64]:
    """What the stand-in generates: each token is the sum of its row so far, modulo the vocabulary."""
    out = []
    for row in batch.rows:
        tokens = list(row)
        for _ in range(new_tokens):
            tokens.append(sum(tokens) % VOCABULARY)
        out.append(tokens[len(row) :])
    return np.array(out, dtype=np.int64)


class StandIn:
    """The Engine protocol in NumPy. `hook`, set by a fault, is called before each decode step."""

    def __init__(self) -> None:
        self.model: Any = np.arange(8, dtype=np.int64)
        self.hook: Callable[[], None] = lambda: None
        self.request: LoadRequest | None = None

    def load(self, request: LoadRequest) -> Loaded:
        if request.options.get("refuse"):
            if request.rank == 0:
                time.sleep(float(str(request.options.get("late", 0))))
            raise Unsupported("the stand-in was told to refuse")
        self.request = request
        print(f"stand-in loaded on rank {request.rank} of {request.world_size}")
        return Loaded(0.5, 64, 8, VOCABULARY, None, 0, self.weight_hash(), {"import": 0.25})

    def generate(self, batch: TokenBatch, new_tokens: int) -> Generated:
        assert self.request is not None
        for _ in range(new_tokens):
            self.hook()
        steps = np.arange(1, new_tokens + 1, dtype=np.float64) * (1.0 + self.request.rank)
        return Generated(expected_tokens(batch, new_tokens), steps, float(steps[-1]), 0.5)

    def score(self, batch: TokenBatch, forced: NDArray[np.int64], *, logits: bool = False) -> Scores:
        rows, steps = forced.shape
        values = np.random.default_rng(int(forced.sum())).normal(size=(steps, rows, VOCABULARY)).astype(np.float32)
        order = np.argsort(-values, axis=-1)[..., :TOP]
        return Scores(
            projections=project(values),
            top_ids=order.astype(np.int64),
            top_logits=np.take_along_axis(values, order, -1).astype(np.float64),
            logsumexp=np.log(np.exp(values.astype(np.float64)).sum(-1)),
            forced_logit=np.take_along_axis(values, forced.T[..., None], -1)[..., 0].astype(np.float64),
            finite=np.ones((steps, rows), dtype=np.bool_),
            logits=values if logits else None,
        )

    score_prefill = score

    def between_steps(self, callback: Callable[[], None] | None) -> None:
        raise Unsupported("the stand-in has nothing between its steps")

    def memory(self, *, reset: bool = False, trim: bool = False) -> Memory:
        return Memory(2 << 20, 0 if trim else 1 << 20, "made up")

    def weight_hash(self) -> str:
        return hashlib.sha256(np.asarray(self.model).tobytes()).hexdigest()

    def inspect(self) -> dict[str, Json]:
        assert self.request is not None
        return {
            "torch": "torch" in sys.modules,
            "threads": self.request.threads,
            "own": os.environ.get("STAND_IN_OWN", ""),
            "local_size": os.environ["LOCAL_SIZE"],
            "backend": os.environ["GENQUAL_BACKEND"],
            "key_in_environment": "GENQUAL_AUTHKEY" in os.environ,
            "first_path": sys.path[0],
        }


class GlooStandIn(StandIn):
    """The same with a real gloo barrier before each decode step."""

    def load(self, request: LoadRequest) -> Loaded:
        import torch.distributed as dist

        dist.init_process_group(os.environ["GENQUAL_BACKEND"])
        return super().load(request)

    def generate(self, batch: TokenBatch, new_tokens: int) -> Generated:
        import torch.distributed as dist

        self.hook()
        dist.barrier()
        return super().generate(batch, new_tokens)


def _hook(engine: StandIn, rank: int, on: int, action: Callable[[], object]) -> Callable[[], None]:
    def act() -> None:
        action()

    def undo() -> None:
        engine.hook = lambda: None

    if on in (rank, EVERY):
        engine.hook = act
    return undo


def sleep_for_ever(engine: StandIn, rank: int, *, on: int) -> Callable[[], None]:
    return _hook(engine, rank, on, lambda: time.sleep(3600))  # a hang, as seen from outside


def hold_the_gil(engine: StandIn, rank: int, *, on: int) -> Callable[[], None]:
    import re

    return _hook(engine, rank, on, lambda: re.match(r"(a+)+$", "a" * 60 + "b"))  # years, in one call of C code


def leave(engine: StandIn, rank: int, *, on: int, code: int) -> Callable[[], None]:
    return _hook(engine, rank, on, lambda: os._exit(code))


def leave_soon(engine: StandIn, rank: int, *, on: int, code: int) -> Callable[[], None]:
    import threading

    return _hook(engine, rank, on, threading.Timer(0.3, os._exit, (code,)).start)


def kill(engine: StandIn, rank: int, *, on: int, sign: str = "SIGKILL") -> Callable[[], None]:
    return _hook(engine, rank, on, lambda: os.kill(os.getpid(), signal.Signals[sign]))


def fail(engine: StandIn, rank: int, *, on: int, message: str) -> Callable[[], None]:
    def act() -> NoReturn:
        raise ValueError(message)

    return _hook(engine, rank, on, act)


def exhaust(engine: StandIn, rank: int) -> Callable[[], None]:
    def act() -> NoReturn:
        raise OutOfMemory("the stand-in has room for nothing")

    return _hook(engine, rank, rank, act)


def exit_interpreter(engine: StandIn, rank: int) -> Callable[[], None]:
    return _hook(engine, rank, rank, lambda: sys.exit(1))


def mutate(engine: StandIn, rank: int) -> Callable[[], None]:
    engine.model = engine.model + 1
    return lambda: None


def add(engine: StandIn, *, offset: int, values: NDArray[np.int64]) -> dict[str, Any]:
    return {"sum": values + offset, "count": int(values.size), "engine": type(engine).__name__}


def not_a_number(engine: StandIn) -> dict[str, Any]:
    return {"value": float("nan")}
