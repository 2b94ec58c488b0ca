"""Latency metrics from the timestamps of greedy runs. Pure: NumPy only; no clock, no torch, no pytest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from genqual.cases import Workload
from genqual.engines.base import Generated, Loaded
from genqual.errors import GenqualError
from genqual.metrics.definitions import DEFINITIONS, Better, Definition
from genqual.metrics.energy import Used
from genqual.metrics.model_reads import ALL, ModelReads
from genqual.metrics.registry import definitions
from genqual.metrics.utilisation import Roofline, mfu, step_bandwidth

SHARED: Final = 1
"""Prompt tokens that two prompts may begin with by chance; an engine whose cache answered more of one had a hit."""

_GAPS: Final[Mapping[str, float]] = {"itl_p50": 0.5, "itl_p90": 0.9, "itl_p99": 0.99}

Array = NDArray[np.float64]
Status = Literal["bad_clock"]


class BadClock(GenqualError):
    """Timestamps that no run can have: not finite, zero, backwards, too few. Nothing may be computed from them."""

    status: Status = "bad_clock"


@dataclass(frozen=True, slots=True)
class Measured:
    """One number about a run, the samples it came from, and how: `statistic` of `samples`, both in `unit`.

    `value` is None when the metric does not exist for this run; `note` then says why. `note` also carries what a
    reader must know before comparing a value: a quantile of few steps, weights that a cache served.
    """

    name: str
    unit: str
    value: float | None
    samples: tuple[float, ...]
    statistic: str
    better: Better
    note: str = ""

    def __post_init__(self) -> None:
        if not all(math.isfinite(sample) for sample in (self.value or 0.0, *self.samples)):
            raise ValueError(f"{self.name}: a metric is finite or None with a note, not {self.value}")
        if self.value is None and not self.note:
            raise ValueError(f"{self.name}: no value and no note; say why there is none")

    @property
    def is_time(self) -> bool:
        """Whether `samples` are durations in seconds, as pytest-benchmark wants them."""
        return self.unit == "s" and bool(self.samples)


def checked(run: Generated, workload: Workload, *, where: str = "run") -> Array:
    """The step times of `run`, (new_tokens,) seconds. Raises BadClock naming the step; ValueError on other shapes.

    A clock may not stand still between tokens either: each step is synchronised on the device, and none takes no time.
    """
    if run.tokens.shape != (workload.batch, workload.new_tokens):
        raise ValueError(f"{where}: tokens {run.tokens.shape}, asked for {(workload.batch, workload.new_tokens)}")
    steps = np.asarray(run.step_s, dtype=np.float64)
    if steps.shape != (workload.new_tokens,):
        raise BadClock(f"{where}: {steps.shape} time stamps for {workload.new_tokens} tokens; one a token is needed")
    ends = np.concatenate([[0.0], steps, [run.wall_s]])
    if not np.isfinite(ends).all():
        bad = int(np.flatnonzero(~np.isfinite(ends))[0])
        raise BadClock(f"{where}: {_stamp(bad, workload)} is {ends[bad]}; the rank's clock gave no number")
    gaps = np.diff(ends)
    late = np.flatnonzero(gaps[:-1] <= 0.0)
    if late.size or gaps[-1] < 0.0:
        bad = int(late[0]) + 1 if late.size else len(ends) - 1
        raise BadClock(
            f"{where}: {_stamp(bad, workload)} is {ends[bad]:.9g} s, the stamp before it {ends[bad - 1]:.9g} s; "
            "a clock that stands still or runs backwards cannot be measured with; look for a suspended or migrated host"
        )
    return steps


def _stamp(index: int, workload: Workload) -> str:
    return f"step {index - 1}" if index <= workload.new_tokens else "the wall time"


def compute(
    runs: Sequence[Generated],
    workload: Workload,
    loaded: Sequence[Loaded],
    *,
    rooflines: Sequence[Roofline] = (),
    peak_memory: int | None = None,
    hits: bool = False,
    reads: ModelReads = ALL,
    energy: Used | None = None,
) -> dict[str, Measured]:
    """Every metric of `DEFINITIONS`, by name, from the timed repetitions `runs` (at least one, warm-up left out).

    Each run holds the slower rank's time of each step. `loaded` and `rooflines` have one entry a rank, in rank order;
    without a roofline MBU and MFU are None; `reads` is what a pass reads of the model. `peak_memory` is bytes on the
    rank that used most, `energy` what all of `runs` took together. Without `hits` a run whose prompt a cache answered
    has no TTFT. Raises BadClock.
    Source of the formulas: `definitions.DEFINITIONS`.
    """
    if not runs:
        raise ValueError("no repetition: metrics need at least one timed run")
    if not loaded:
        raise ValueError("no rank: metrics need what each rank loaded")
    if rooflines and len(rooflines) != len(loaded):
        raise ValueError(f"{len(rooflines)} rooflines for {len(loaded)} ranks: probe every rank or none")
    steps = np.stack([checked(run, workload, where=f"repetition {index}") for index, run in enumerate(runs)])
    wall = np.array([run.wall_s for run in runs], dtype=np.float64)
    new, rows = workload.new_tokens, workload.batch
    no_ttft = _no_hit(runs) if hits else _hit(runs, workload)
    about = "" if hits else no_ttft

    found = {
        "ttft": _missing("ttft", no_ttft) if no_ttft else _median("ttft", steps[:, 0]),
        "e2e": _median("e2e", steps[:, -1], about),
        "tokens_per_s": _median("tokens_per_s", rows * new / steps[:, -1], about),
        "msec_per_token": _median("msec_per_token", 1e3 * wall / (rows * new), about),
        "load_s": _single("load_s", max(rank.load_s for rank in loaded) or None, "loading was not seen from here"),
        "peak_memory": _single("peak_memory", peak_memory, "memory was not read in this run"),
    }
    found["energy_per_token"] = _energy(energy, len(runs) * rows * new)
    bound = _Bound(workload, loaded, rooflines, reads)
    found |= _decode(runs, steps, workload, bound)
    found["mfu"] = _missing("mfu", no_ttft) if no_ttft else _mfu(steps[:, 0], bound)
    found |= {name: _added(one, steps, workload) for name, one in definitions().items() if one.compute is not None}
    return {name: found[name] for name in definitions() if name in found}


def _added(one: Definition, steps: Array, workload: Workload) -> Measured:
    """A metric of another package: the median of one sample a repetition."""
    if one.compute is None:
        raise ValueError(f"{one.name} says not how it is computed")
    samples = np.asarray(one.compute(steps, workload), dtype=np.float64)
    if samples.shape != (len(steps),):
        raise ValueError(f"{one.name}: {samples.shape} samples of {len(steps)} repetitions; one each is wanted")
    return Measured(one.name, one.unit, float(np.median(samples)), tuple(samples.tolist()), one.statistic, one.better)


def _energy(energy: Used | None, tokens: int) -> Measured:
    """Joules a new token of all runs together; the note says by which sources, or why there is no number."""
    if energy is None or energy.joules is None:
        return _missing("energy_per_token", "energy was not read in this run" if energy is None else energy.note)
    each = energy.joules / tokens
    return _of("energy_per_token", each, (each,), energy.note)


def time_per_token(run: Generated) -> float | None:
    """TPOT of one run, seconds: the time after the first piece over the tokens after it.

    None where no token came after the first piece, or nobody says how many tokens that piece had.
    """
    new, first = len(run.step_s), first_piece(run)
    if first >= new or (run.untold and run.pieces is None):
        return None
    return float(run.step_s[-1] - run.step_s[0]) / (new - first)


def first_piece(run: Generated) -> int:
    """How many tokens arrived with the first one, itself among them."""
    return 1 if run.pieces is None else int((run.pieces == run.pieces[0]).sum())


def _hit(runs: Sequence[Generated], workload: Workload) -> str:
    """Which prompt a cache answered in part, or nothing."""
    for index, run in enumerate(runs):
        if run.cached_tokens is not None and run.cached_tokens.max() > SHARED:
            row = int(run.cached_tokens.argmax())
            return (
                f"repetition {index}: the engine's prefix cache answered {run.cached_tokens[row]} of the "
                f"{workload.input_length} prompt tokens of row {row}, so this prefill is no whole one; restart the "
                "engine, or let other prompts be sent (--prompt-seed)"
            )
    return ""


def _no_hit(runs: Sequence[Generated]) -> str:
    """Which prompt, sent again, no cache answered, or nothing: where the engine does not say, it is taken for a hit."""
    for index, run in enumerate(runs):
        if run.cached_tokens is None:
            continue
        missed = (run.cached_tokens >= 0) & (run.cached_tokens <= SHARED)
        if missed.any():
            row = int(missed.argmax())
            return f"repetition {index}: the engine's cache answered nothing of row {row}, so there is no hit to time"
    return ""


def _decode(
    runs: Sequence[Generated],
    steps: Array,
    workload: Workload,
    bound: _Bound,
) -> dict[str, Measured]:
    """TPOT, the gaps between tokens, and MBU: of the tokens after the first piece; missing where nothing tells them."""
    new = workload.new_tokens
    times = [time_per_token(run) for run in runs]
    why = next((run.untold for run in runs if run.untold), "")
    if new == 1:
        why = "one new token: the first token is TTFT, and no other token follows it"
    elif None in times and not why:
        why = f"all {new} tokens of repetition {times.index(None)} arrived in one piece: none came after another"
    found = {name: _missing(name, why) for name in _GAPS} if why else {}
    if None in times:
        return found | {name: _missing(name, why) for name in ("tpot", "mbu")}
    tpot = np.array(times, dtype=np.float64)
    most = max(_sizes(run).max() for run in runs)
    about = f"tokens arrived in pieces of up to {most}: " if most > 1 else ""
    found["tpot"] = _median("tpot", tpot, about and f"{about}the time after the first piece, over the tokens after it")
    found["mbu"] = _mbu(tpot, bound)
    if not why:
        gaps = np.concatenate([_shared(run, stamps) for run, stamps in zip(runs, steps, strict=True)])
        found |= _gaps(gaps, about and f"{about}those of one share the time since the piece before")
    return found


def _sizes(run: Generated) -> NDArray[np.int64]:
    """How many tokens each piece of `run` had, (pieces,)."""
    if run.pieces is None:
        return np.ones(len(run.step_s), dtype=np.int64)
    return np.unique(run.pieces, return_counts=True)[1]


def _shared(run: Generated, stamps: Array) -> Array:
    """A gap for each token after the first piece: that between its piece and the one before, in equal shares."""
    sizes = _sizes(run)
    starts = stamps[np.cumsum(sizes) - sizes]
    return np.repeat(np.diff(starts) / sizes[1:], sizes[1:])


def _of(name: str, value: float | None, samples: tuple[float, ...], note: str = "") -> Measured:
    known = DEFINITIONS[name]
    return Measured(name, known.unit, value, samples, known.statistic, known.better, note)


def _missing(name: str, why: str) -> Measured:
    return _of(name, None, (), why)


def _single(name: str, value: float | None, why: str = "") -> Measured:
    return _missing(name, why) if value is None else _of(name, float(value), (float(value),))


def _median(name: str, samples: Array, note: str = "") -> Measured:
    return _of(name, float(np.median(samples)), tuple(samples.tolist()), note)


def _gaps(gaps: Array, about: str = "") -> dict[str, Measured]:
    found = {}
    for name, level in _GAPS.items():
        fewest = round(1.0 / (1.0 - level))
        few = "" if gaps.size >= fewest else f"of {gaps.size} gaps; below {fewest} it is close to their maximum"
        note = "; ".join(filter(None, [few, about]))
        found[name] = _of(name, float(np.quantile(gaps, level)), tuple(gaps.tolist()), note)
    return found


@dataclass(frozen=True, slots=True)
class _Bound:
    """What MBU and MFU are shares of, and what is read for them."""

    workload: Workload
    loaded: Sequence[Loaded]
    rooflines: Sequence[Roofline]
    reads: ModelReads


def _mbu(tpot: Array, bound: _Bound) -> Measured:
    if not bound.rooflines:
        return _missing("mbu", "no roofline was probed in this run")
    moved, bandwidth, about = step_bandwidth(bound.workload, bound.loaded, bound.rooflines, bound.reads)
    samples = moved / (tpot * bandwidth)
    if np.median(samples) > 1.0:
        about += "; above 1: the step did not read all of these bytes, or read them faster than the probe could"
    return _median("mbu", samples, about)


def _mfu(ttft: Array, bound: _Bound) -> Measured:
    if not bound.rooflines:
        return _missing("mfu", "no roofline was probed in this run")
    of = (bound.workload, bound.loaded, bound.rooflines, bound.reads)
    samples = np.array([mfu(float(seconds), *of) for seconds in ttft])
    about = "of " + " + ".join(sorted({one.gemm_about for one in bound.rooflines}))
    if bound.reads.about:
        about += f"; {bound.reads.about}"
    if np.median(samples) > 1.0:
        about += "; above 1: the probe did not reach the device's peak, or prefill skipped work (a reused prefix)"
    return _median("mfu", samples, about)
