"""Requests of pytest, answered by one rank around its engine. Imports no torch: the engine does."""

from __future__ import annotations

import dataclasses
import faulthandler
import gc
import importlib
import os
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from genqual import digest
from genqual.cases import Json
from genqual.engines.base import Engine, LoadRequest, TokenBatch
from genqual.errors import BadInput, EngineFailed, OutOfMemory, Unsupported
from genqual.models.spec import ModelSpec
from genqual.ranks.codec import encode
from genqual.ranks.protocol import Arrays, ChannelError, Message, receive, send

if TYPE_CHECKING:
    from genqual.ranks.rank_context import RankContext

LEAVE_S: Final = 20.0  # longest orderly exit of an interpreter with an engine in it
Answer = tuple[dict[str, Json], dict[str, NDArray[Any]]]


def resolve(entry: str) -> Any:
    """Import what `package.module:name` names. Raises BadInput on another form, else as Python does."""
    module, _, name = entry.partition(":")
    if not module or not name:
        raise BadInput(f"entry point {entry!r}: must read package.module:name")
    return getattr(importlib.import_module(module), name)


def kind_of(error: BaseException) -> str:
    """Name the status that an error stands for: Unsupported, OutOfMemory, BadInput, EngineFailed or Exception."""
    if isinstance(error, Unsupported):
        return "Unsupported"
    if isinstance(error, EngineFailed):  # an engine that can tell in a sentence what failed needs no traceback
        return "EngineFailed"
    # torch.OutOfMemoryError by name: no torch here. Engines raise OutOfMemory; this is for functions that are invoked.
    if isinstance(error, OutOfMemory | MemoryError) or "OutOfMemoryError" in {c.__name__ for c in type(error).__mro__}:
        return "OutOfMemory"
    return "BadInput" if isinstance(error, BadInput) else "Exception"


def _array_sha256(array: NDArray[Any]) -> str:
    """SHA-256 of an array's shape and values, by which ranks are compared without moving them."""
    body = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return digest.of_bytes(f"{body.dtype.str}{body.shape}".encode(), body.tobytes())


def _batch(arrays: Arrays) -> TokenBatch:
    """The prompts of a request. Raises BadInput on those that break the contract: every engine refuses them alike."""
    try:
        return TokenBatch(arrays["ids"], arrays["mask"])
    except ValueError as error:
        raise BadInput(f"prompts: {error}") from None


class RankServer:
    """One rank's loop. Every request gets exactly one answer; collectives run inside engine calls only."""

    def __init__(self, place: RankContext, control: Connection) -> None:
        self._place = place
        self._control = control
        self._engine: Engine | None = None
        self._undo: list[Callable[[], object]] = []
        self._methods: dict[str, Callable[[dict[str, Any], Arrays], Answer]] = {
            **{"ping": self._ping, "load": self._load, "generate": self._generate},
            **{"score": self._score, "score_prefill": self._score, "memory": self._memory},
            **{"weight_hash": self._weight_hash, "inspect": self._inspect, "invoke": self._invoke},
            **{"fault": self._fault, "heal": self._heal},
        }

    def run(self) -> None:
        """Answer until `shutdown`. Raises EOFError or OSError when pytest is gone."""
        while True:
            message = receive(self._control)
            method = str(message.fields["method"])
            if method == "shutdown":
                send(self._control, Message({"id": message.fields["id"], "ok": True, "value": {}}))
                faulthandler.dump_traceback_later(LEAVE_S, exit=True, file=self._place.stacks)
                return
            # A C thread ends the rank when pytest cannot: the last line of defence, armed beyond pytest's own deadline.
            backstop = cast(float, message.fields["backstop_s"])
            faulthandler.dump_traceback_later(backstop, exit=True, file=self._place.stacks)
            reply = self._answer(method, message)
            faulthandler.cancel_dump_traceback_later()
            try:
                send(self._control, reply)
            except ChannelError as error:  # raised before a byte left: the answer held what cannot cross
                send(self._control, Message(self._failure(message.fields["id"], error)))

    def _answer(self, method: str, message: Message) -> Message:
        number = message.fields["id"]
        start = time.monotonic()
        try:
            call = self._methods[method]
            value, arrays = call({**cast(dict[str, Any], message.fields["fields"]), "method": method}, message.arrays)
            times: dict[str, Json] = {"t_start": start, "t_end": time.monotonic()}
            return Message({"id": number, "ok": True, "value": value, **times}, arrays)
        # SystemExit too: upstream exits the interpreter where it should raise. The error is sent, not swallowed.
        except (Exception, SystemExit) as error:  # noqa: BLE001
            failure = self._failure(number, error)
        if failure["kind"] == "OutOfMemory":
            gc.collect()  # the traceback held the tensors that did not fit
        return Message(failure)

    def _failure(self, number: Json, error: BaseException) -> dict[str, Json]:
        text = "".join(traceback.format_exception(error))
        sys.stderr.write(text)
        return {
            **{"id": number, "ok": False, "kind": kind_of(error), "type": type(error).__name__},
            **{"message": str(error), "traceback": text, "at": time.time()},
        }

    @property
    def _ready(self) -> Engine:
        if self._engine is None:
            raise BadInput("no engine is loaded: `load` comes first")
        return self._engine

    def _ping(self, fields: dict[str, Any], arrays: Arrays) -> Answer:
        return {"rank": self._place.rank, "pid": os.getpid(), "cores": list[Json](sorted(os.sched_getaffinity(0)))}, {}

    def _load(self, fields: dict[str, Any], arrays: Arrays) -> Answer:
        if self._engine is not None:
            raise BadInput("an engine is loaded already: a group serves one case")
        engine: Engine = resolve(fields["implementation"])()
        place = self._place
        request = LoadRequest(
            model=ModelSpec.from_json(fields["model"]),
            dtype=fields["dtype"],
            device=fields["device"],
            rank=place.rank,
            world_size=place.world_size,
            local_rank=place.local_rank,
            local_size=place.local_size,
            threads=int(os.environ.get("OMP_NUM_THREADS") or len(place.cores) or 1),
            options=fields["options"],
        )
        answer = encode(engine.load(request))
        self._engine = engine
        return answer

    def _generate(self, fields: dict[str, Any], arrays: Arrays) -> Answer:
        generated = self._ready.generate(_batch(arrays), fields["new_tokens"])
        value, bodies = encode(generated)
        return {**value, "agree": {"choices": _array_sha256(generated.tokens)}}, bodies

    def _score(self, fields: dict[str, Any], arrays: Arrays) -> Answer:
        call = self._ready.score if fields["method"] == "score" else self._ready.score_prefill
        scores = call(_batch(arrays), arrays["forced"], logits=fields["logits"])
        agree: Json = {"choices": _array_sha256(scores.top_ids[..., :1]), "top": _array_sha256(scores.top_ids)}
        if self._place.rank:  # bulk comes from one rank; the others prove that they agree
            return {"agree": agree}, {}
        value, bodies = encode(scores)
        return {**value, "agree": agree}, bodies

    def _memory(self, fields: dict[str, Any], arrays: Arrays) -> Answer:
        return encode(self._ready.memory(reset=fields["reset"], trim=fields["trim"]))

    def _weight_hash(self, fields: dict[str, Any], arrays: Arrays) -> Answer:
        return {"weight_hash": self._ready.weight_hash()}, {}

    def _inspect(self, fields: dict[str, Any], arrays: Arrays) -> Answer:
        return {"inspect": self._ready.inspect()}, {}

    def _invoke(self, fields: dict[str, Any], arrays: Arrays) -> Answer:
        """Call `module:function(engine, **fields, **arrays)`; it returns a mapping or a dataclass."""
        result = resolve(fields["entry"])(self._engine, **fields["params"], **arrays)
        if dataclasses.is_dataclass(result):
            return encode(result)
        bodies = {name: part for name, part in result.items() if isinstance(part, np.ndarray)}
        return {name: part for name, part in result.items() if name not in bodies}, bodies

    def _fault(self, fields: dict[str, Any], arrays: Arrays) -> Answer:
        self._undo.append(resolve(fields["entry"])(self._ready, self._place.rank, **fields["params"]))
        return {"faults": len(self._undo)}, {}

    def _heal(self, fields: dict[str, Any], arrays: Arrays) -> Answer:
        healed = len(self._undo)
        while self._undo:
            self._undo.pop()()
        return {"healed": healed}, {}
