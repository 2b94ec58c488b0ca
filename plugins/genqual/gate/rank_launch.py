"""One launch, in a rank: the candidate's steps in strict alternation with the reference step, timed. No judgement here.

Invoked as `genqual.gate.rank_launch:launch` in every rank at once. Step counts are given and never adapted to a
clock, because ranks that stop at different steps hang.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
from numpy.typing import NDArray

from genqual import digest
from genqual.engines.base import Generated, TokenBatch
from genqual.engines.hf.runtime import synchronise
from genqual.errors import BadInput, EngineFailed, Unsupported
from genqual.gate import frozen
from genqual.gate.launch_plan import SLOW_EVERY as SLOW_EVERY  # tests and callers know it from here
from genqual.metrics.compute import SHARED, time_per_token
from genqual.models.files import weight_files
from genqual.models.fresh_prompts import fresh_row
from genqual.models.spec import ModelSpec
from genqual.models.weights import count

_BURST: Final = 4  # reference steps around a whole request, where an engine has no hook
LOADS: Final = 8  # of a model that is loaded again; one says little: docs/gate-theory.md, "Load time and memory"
_READS: Final = 2  # plain ones between two loads: a read is shorter than a load, and sees less of the host
_AGAIN_BYTES: Final = 1 << 30  # a larger model is not held twice, and its one load is long enough to average the host


class Alternation:
    """What an engine calls between its steps: ends a candidate's step, runs a frozen one, starts the next.

    A slowed step does its extra work after the candidate's clock has started again: it is part of the step's time.
    """

    def __init__(
        self, frozen: Callable[[], object], settle: Callable[[], None], extra: Callable[[], None], *, steps: bool
    ) -> None:
        self._frozen, self._settle, self._extra, self._steps = frozen, settle, extra, steps
        self._started: float | None = None
        self._slowed = False
        self._last = 0.0
        self._count = 0
        self.samples: list[tuple[float, float, float, bool]] = []  # candidate, frozen before, frozen after, slowed

    def start(self) -> None:
        """A candidate's step starts here, slowed when it is its turn."""
        self._slowed = self._count % SLOW_EVERY == SLOW_EVERY - 1
        self._started = time.perf_counter()
        if self._slowed:
            self._extra()
            self._settle()

    def skip(self) -> None:
        """What runs until the next call is no step of the kind that is measured."""
        self._started = None

    def __call__(self) -> None:
        ended = time.perf_counter()
        self._frozen()
        self._settle()
        done = time.perf_counter()
        if self._started is not None:
            self.samples.append((ended - self._started, self._last, done - ended, self._slowed))
            self._count += 1
        self._last = done - ended
        if self._steps:
            self.start()


def launch(
    engine: Any,
    *,
    sections: list[str],
    shape: dict[str, Any],
    new_tokens: int,
    calls: dict[str, int],
    slowdown: float,
    threads: int,
    fresh: dict[str, Any] | None = None,
    **rows: NDArray[np.int64],
) -> dict[str, Any]:
    """Measure `sections` (decode, prefill, throughput, load, memory) on prompts `rows[section]`, in that order.

    `shape` is the reference step's hidden size, layers and dtype; `calls[section]` generate calls follow one that
    warms up; a slowed step takes `slowdown` (0.05: 5 %) more work. Arrays of a section: `<section>_times` (steps, 3):
    seconds of candidate, frozen before, frozen after; `<section>_marks` (steps, 2): call, slowed; `load_times` (loads,
    3), of an engine that can load again: seconds of loading, of a plain read before, after. With `fresh` (vocabulary,
    seed, numbers of prompts) each request sends the next of those instead, in the shape of `rows[section]`. Raises
    BadInput.
    """
    unknown = set(sections) - {"decode", "prefill", "throughput", "load", "memory"}
    if unknown:
        raise BadInput(f"sections {sorted(unknown)}: a launch knows decode, prefill, throughput, load and memory")
    source = digest.of_file(Path(str(frozen.__file__)))
    prompts = _Prompts(fresh)
    found: dict[str, Any] = {"hook": "steps", "storage_bytes": _storage_bytes(), "frozen_source": source}
    if "load" in sections:  # first of all: the nearer to the one load there was, the more alike is the host
        try:
            found["plain_read_s"] = min(plain_read(engine) for _ in range(4))
        except Unsupported as reason:  # load time has no clock then; all else of the launch is as good as ever
            found["load_unread"] = str(reason)
    if "memory" in sections:
        engine.memory(reset=True, trim=True)
        engine.generate(prompts.next(rows["memory"]), new_tokens)
        found["peak_bytes"] = engine.memory().peak
    timed: list[str] = [name for name in ("decode", "prefill", "throughput") if name in sections]
    if timed:
        dtype, device = frozen.DTYPES[shape["dtype"]], _device(engine)
        clock = frozen.Frozen(shape["hidden"], shape["layers"], dtype=dtype, device=device)
        settle = partial(synchronise, engine.request.device)
        cpu = wall = 0.0
        for name in timed:
            ids = rows[name]
            step = (clock.prefill if name == "prefill" else clock.decode)(*ids.shape)
            tokens = 1 if name == "prefill" else new_tokens
            batch = partial(prompts.next, ids)
            run = _Section(engine, batch, tokens, step, clock.unit, settle, first=name == "prefill")
            cpu0, start = _cpu_s(), time.perf_counter()
            times, marks, found["hook"] = run.measure(calls[name], slowdown)
            wall, cpu = wall + time.perf_counter() - start, cpu + _cpu_s() - cpu0
            found |= {f"{name}_times": times, f"{name}_marks": marks}
        if getattr(engine, "computes_here", True):
            found["cpu_share"] = cpu / (wall * threads)
    again = loads(engine) if "plain_read_s" in found else None  # last: what it leaves behind disturbs nothing
    if again is not None:
        found["load_times"] = again
    return found | {"cpu_s": _cpu_s()}


class _Section:
    def __init__(
        self,
        engine: Any,
        batch: Callable[[], TokenBatch],
        tokens: int,
        step: Callable[[], object],
        unit: Callable[[], None],
        settle: Callable[[], None],
        *,
        first: bool,
    ) -> None:
        self._engine, self._batch, self._tokens, self._step = engine, batch, tokens, step
        self._unit, self._settle, self._first = unit, settle, first
        self._units = 0

    def measure(self, calls: int, slowdown: float) -> tuple[NDArray[np.float64], NDArray[np.int64], str]:
        gc.collect()
        for _ in range(2):
            self._step()
        try:
            self._engine.between_steps(lambda: None)
        except Unsupported:
            return (*self._requests(calls, slowdown), "requests")
        try:
            return (*self._steps(calls, slowdown), "steps")
        finally:
            self._engine.between_steps(None)

    def _extra(self) -> None:
        for _ in range(self._units):
            self._unit()

    def _calibrate(self, candidate_s: float, slowdown: float) -> None:
        """So many units as take `slowdown` of a candidate's step where they stand: after a reference step.

        Units in a row take up to half as long: the reference step leaves them a cold cache, and threads that slept.
        """
        wanted = slowdown * candidate_s
        units = max(1, int(8 * wanted / self._span(8, alone=True)) // 4)
        least, below = 0, 0.0
        while (span := self._span(units)) < wanted:
            least, below, units = units, span, 2 * units
        self._units = max(1, round(float(np.interp(wanted, [below, span], [least, units]))))

    def _span(self, units: int, *, alone: bool = False) -> float:
        """Seconds of so many units, each time after a reference step, or `alone`."""
        spans = []
        for _ in range(7):
            if not alone:
                self._step()
                self._settle()
            start = time.perf_counter()
            for _ in range(units):
                self._unit()
            self._settle()
            spans.append(time.perf_counter() - start)
        return low(spans)

    def _steps(self, calls: int, slowdown: float) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        alternation = Alternation(self._step, self._settle, self._extra, steps=not self._first)
        self._engine.between_steps(alternation)

        def call() -> None:
            # Of a decode, the prefill is no sample; of a prefill, only what runs inside the call is.
            if self._first:
                alternation.start()
            else:
                alternation.skip()
            self._engine.generate(self._batch(), self._tokens)

        alternation()  # a first reference step, so that every sample has one before it
        for _ in range(3 if self._first else 1):
            call()
        self._calibrate(low([sample[0] for sample in alternation.samples if not sample[3]]), slowdown)
        alternation.samples.clear()
        marks: list[tuple[int, bool]] = []
        for index in range(calls):
            before = len(alternation.samples)
            call()
            marks += [(index, slowed) for _, _, _, slowed in alternation.samples[before:]]
        times = np.array([sample[:3] for sample in alternation.samples], dtype=np.float64).reshape(-1, 3)
        return times, np.array(marks, dtype=np.int64).reshape(-1, 2)

    def _requests(self, calls: int, slowdown: float) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Whole requests between bursts of reference steps: for engines that let nobody between their steps."""
        self._calibrate(self._request(slowed=False), slowdown)
        before = self._burst()
        times, marks = [], []
        for index in range(calls * SLOW_EVERY):
            slowed = index % SLOW_EVERY == SLOW_EVERY - 1
            took = self._request(slowed=slowed)
            after = self._burst()
            times.append((took, before, after))
            marks.append((index // SLOW_EVERY, slowed))
            before = after
        return np.array(times, dtype=np.float64), np.array(marks, dtype=np.int64)

    def _request(self, *, slowed: bool) -> float:
        """Seconds of a token of one request; what a slowed one does more is timed and added.

        Raises EngineFailed where the request has no such time.
        """
        run: Generated = self._engine.generate(self._batch(), self._tokens)
        if self._first and run.cached_tokens is not None and run.cached_tokens.max() > SHARED:
            said = f"a prefix cache answered {run.cached_tokens.max()} tokens of a prompt"
            raise EngineFailed(f"{said}, so that no whole prefill was timed; restart the engine, or give --prompt-seed")
        took = float(run.step_s[0]) if self._first or len(run.step_s) == 1 else time_per_token(run)
        if took is None:
            raise EngineFailed(f"no token has a time of its own: {run.untold or 'all arrived in one piece'}")
        if slowed:
            start = time.perf_counter()
            self._extra()
            self._settle()
            took += time.perf_counter() - start
        return took

    def _burst(self) -> float:
        start = time.perf_counter()
        for _ in range(_BURST):
            self._step()
        self._settle()
        return (time.perf_counter() - start) / _BURST


def low(values: list[float]) -> float:
    """The lower decile: what a step takes that nobody interrupted, or a busy host would set the slowdown."""
    return float(np.quantile(values, 0.1))


def loads(engine: Any) -> NDArray[np.float64] | None:
    """Load again beside what is loaded, each time between plain reads; (LOADS, 3) seconds: load, a read before, after.

    None of an engine that cannot, and of a model too large, or of unknown size, to be held twice.
    """
    again = getattr(engine, "load_again", None)
    if again is None or not 0 < sum(part.numel() * part.element_size() for part in _parameters(engine)) <= _AGAIN_BYTES:
        return None

    def read() -> float:
        return sum(plain_read(engine) for _ in range(_READS)) / _READS

    times = []
    before = read()
    for _ in range(LOADS):
        loaded = again()
        if loaded is None:
            return None
        gc.collect()  # a model is let go before the next one is loaded
        after = read()
        times.append((loaded.loading_s, before, after))
        before = after
    return np.array(times, dtype=np.float64)


def plain_read(engine: Any) -> float:
    """Seconds to read the model's bytes and nothing else: its files, or the hash stream of an embedded model.

    Of the model as it is, whatever the engine made of it. Raises Unsupported where its files are not to be found.
    """
    spec: ModelSpec = engine.request.model
    weights = count(spec) if spec.source == "embedded" else 0
    files = weight_files(spec)
    start = time.perf_counter()
    if spec.source == "embedded":
        hashlib.shake_128(b"genqual/plain").digest(weights)
    for file in files:
        with file.open("rb", buffering=0) as stream:
            while stream.read(1 << 22):
                pass
    return time.perf_counter() - start


def _parameters(engine: Any) -> list[Any]:
    """The engine's tensors; none where it keeps them elsewhere, as OpenVINO, a program or a server does."""
    return list(getattr(getattr(engine, "model", None), "parameters", tuple)())


def _cpu_s() -> float:
    """CPU seconds of this process and of those that it started and that run: an engine may be a program of its own."""
    seconds = time.process_time()
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it ended meanwhile
            own = child.cpu_times()
            seconds += own.user + own.system
    return seconds


def _device(engine: Any) -> Any:
    """Where the last parameters are, which is where the head runs; offloaded ones are nowhere until they are used."""
    places = [tensor.device for tensor in _parameters(engine) if tensor.device.type != "meta"]
    return places[-1] if places else engine.request.device


def _storage_bytes() -> int | None:
    """What this process had to fetch from storage so far: a warm page cache reads about nothing."""
    try:
        process = psutil.Process()
        return int(process.io_counters().read_bytes) if hasattr(process, "io_counters") else None
    except (psutil.Error, OSError, ValueError, RuntimeError):  # the kernel does not count, or does not tell this user
        return None


class _Prompts:
    """What each request sends: `ids` as they are, or prompts that no other request began with."""

    def __init__(self, fresh: dict[str, Any] | None) -> None:
        self._fresh = fresh
        self._numbers = iter(fresh["numbers"] if fresh else ())

    def next(self, ids: NDArray[np.int64]) -> TokenBatch:
        if self._fresh is None:
            return TokenBatch.of(ids.tolist())
        rows, length = ids.shape
        vocabulary, seed = int(self._fresh["vocabulary"]), str(self._fresh["seed"])
        return TokenBatch.of([fresh_row(vocabulary, length, seed, next(self._numbers)) for _ in range(rows)])
