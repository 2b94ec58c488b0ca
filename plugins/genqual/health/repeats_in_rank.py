"""The same generation again and again in a rank, every step compared with the first run. In ranks only, by `invoke`.

Logits of the generation itself, its cache at the end, and the weights must be what they were, too. Products with known
answers, of the sizes of the model's linear layers, run between the steps. All ranks do the same number of runs: each
generation is collective.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from genqual import digest
from genqual.cases import Json
from genqual.engines.base import Scores, TokenBatch
from genqual.errors import BadInput, Unsupported
from genqual.health.known_answer import model_tiles
from genqual.health.prints_in_rank import step_prints
from genqual.health.products import DTYPES, Products
from genqual.health.stored_in_rank import Prints, cache_of, weights

I64 = NDArray[np.int64]
F32 = NDArray[np.float32]
AGAIN: Final = 4  # repeats of a run that differed: does it come again?
MOST_ASKED: Final = 4  # runs of one call that are repeated so: a call in which all differ is not five times as long
MOST_EVENTS: Final = 16  # that are told one by one; more are counted
_TILE_BYTES: Final = 64 << 20  # of factors, in a rank that holds a large model


@dataclasses.dataclass
class _First:
    """The first run of a request: what every later one is compared with."""

    batch: TokenBatch
    forced: I64
    logits: F32  # (steps, rows, vocabulary)
    prints: list[str]  # SHA-256 of each step's logits
    tokens: I64
    products: Products | None
    weights: str  # digest
    generated: Prints  # of the cache that `generate` ended with
    scored: Prints  # of the one that `score` ended with
    chosen_from: list[str]  # checksums of the logits of each step of `generate`; none of an engine that hides them
    run: int = 0


_FIRST: dict[int, _First] = {}  # by engine: one engine a process


def begin(engine: Any, *, ids: I64, mask: I64, forced: I64, products: bool = True) -> Scores:
    """Run the request once, keep its logits here, and give its statistics back for the oracle."""
    batch = TokenBatch(np.array(ids), np.array(mask))
    with cache_of(engine) as scored:
        scores: Scores = engine.score(batch, np.array(forced), logits=True)
    with cache_of(engine) as generated, step_prints(engine) as chosen_from:
        tokens = engine.generate(batch, forced.shape[1]).tokens
    made = _products(engine, int(ids.shape[0])) if products else None
    logits = _logits(scores)
    _FIRST[id(engine)] = _First(
        batch, np.array(forced), logits, _prints(logits), tokens, made, weights(engine), generated, scored, chosen_from
    )
    return dataclasses.replace(scores, logits=None)


def again(
    engine: Any,
    *,
    runs: int,
    limit: float | None = None,
    stop: bool = False,
    inject: int | None = None,
    bit: int | None = None,
    inject_on: int = 0,
) -> dict[str, Json]:
    """`runs` more of what `begin` ran: `steps` and `products` that were compared, `events`, and `more` of these.

    `limit` None: bits are compared; else the error of a step, over the spread of its logits, must not exceed it. With
    `stop` the first run in which any rank has an event is the last. `inject` and `bit` make one product of this call
    wrong in rank `inject_on`, for tests. Raises BadInput before `begin`.
    """
    first = _FIRST.get(id(engine))
    if first is None:
        raise BadInput("no first run: `begin` comes before `again`")
    events: list[dict[str, Json]] = []
    products = first.products
    before = products.count if products else 0
    rank = int(os.environ.get("RANK", "0"))
    target = None if inject is None or rank != inject_on else before + inject
    done = 0
    differed = 0
    while done < runs:
        done += 1
        found, differs = _run(engine, first, limit, target, bit, AGAIN if differed < MOST_ASKED else 0)
        events += found
        differed += differs
        if stop and _anywhere(engine, bool(events)):
            break
    if (now := weights(engine)) != first.weights:
        told: dict[str, Json] = {"kind": "weights", "run": first.run, "got": now[:16], "expected": first.weights[:16]}
        events.append(told)
    return {
        **{"rank": rank, "runs": done, "steps": done * first.forced.shape[1]},
        **{"products": (products.count - before) if products else 0},
        **{"events": events[:MOST_EVENTS], "more": max(0, len(events) - MOST_EVENTS)},
    }


def _run(
    engine: Any, first: _First, limit: float | None, target: int | None, bit: int | None, again: int
) -> tuple[list[dict[str, Json]], bool]:
    """One run: an event for what it computed or kept, and one for each wrong product; whether any rank's run differed.

    A run that differed in any rank is repeated `again` times in all.
    """
    first.run += 1
    events: list[dict[str, Json]] = []
    wrong: list[dict[str, Json]] = []
    with (
        _between(engine, first.products, wrong, target, bit),
        cache_of(engine) as generated,
        step_prints(engine) as chosen_from,
    ):
        tokens = engine.generate(first.batch, first.forced.shape[1]).tokens
    found, scored = _scored(engine, first, limit)
    kept = _kept_event(first, generated, scored) if limit is None else None
    chosen = _chosen_event(first, chosen_from) if limit is None else None
    other = not np.array_equal(tokens, first.tokens)
    # Asked in every rank alike: a rank that repeats alone would wait for its peers for ever.
    differs = _anywhere(engine, bool(found or kept or chosen) or other)
    if differs:
        repeats = [_repeated(engine, first, limit) for _ in range(again)]
        if found:
            same = sum(any(one["step"] == found[0]["step"] for one in steps) for steps, _, _ in repeats)
            events.append({**found[0], **_over(found), "again": same, "repeats": again})
        elif chosen:
            same = sum(prints != first.chosen_from for _, _, prints in repeats)
            events.append({**chosen, "again": same, "repeats": again})
        elif kept:
            same = sum(prints != first.scored for _, prints, _ in repeats)
            events.append({**kept, "again": same, "repeats": again})
        elif other:
            same = sum(bool(steps) for steps, _, _ in repeats)
            events.append({**_token_event(first, tokens), "again": same, "repeats": again})
    return events + wrong, differs


def _scored(engine: Any, first: _First, limit: float | None) -> tuple[list[dict[str, Json]], Prints]:
    """The steps of one forced run that differ, and the digests of its cache."""
    with cache_of(engine) as prints:
        logits = _logits(engine.score(first.batch, first.forced, logits=True))
    return _differing(first, logits, limit), prints


def _repeated(engine: Any, first: _First, limit: float | None) -> tuple[list[dict[str, Json]], Prints, list[str]]:
    """As `_scored`, and the checksums of one more generation: both loops, whichever of them differed in some rank."""
    with step_prints(engine) as chosen_from:
        engine.generate(first.batch, first.forced.shape[1])
    return *_scored(engine, first, limit), chosen_from


def _over(found: list[dict[str, Json]]) -> dict[str, Json]:
    """What other rules than equal bits need to know: the worst of all steps of the run that differ."""
    return {
        "steps_wrong": len(found),
        "largest": max((str(one["largest"]) for one in found), key=float),
        "nrms": max((str(one["nrms"]) for one in found), key=float),
        "finite": all(one["finite"] for one in found),
    }


def _kept_event(first: _First, generated: Prints, scored: Prints) -> dict[str, Json] | None:
    """The first part of a cache whose digest is not that of the first run; None where all are."""
    for want, got in ((first.generated, generated), (first.scored, scored)):
        wrong = [name for name in want if got.get(name) != want[name]]
        if wrong:
            name = wrong[0]
            told = {"kind": "cache", "run": first.run, "step": first.forced.shape[1] - 1, "part": name}
            return {**told, "got": got.get(name, "")[:16], "expected": want[name][:16], "wrong": len(wrong)}
    return None


def _chosen_event(first: _First, got: list[str]) -> dict[str, Json] | None:
    """The first step of a generation whose logits have another checksum than in the first run; None where none has."""
    wrong = [step for step, pair in enumerate(zip_longest(got, first.chosen_from)) if pair[0] != pair[1]]
    if not wrong:
        return None
    step = wrong[0]
    now, then = ("".join(one[step : step + 1])[:16] or "none" for one in (got, first.chosen_from))
    told: dict[str, Json] = {"kind": "generated", "run": first.run, "step": step, "got": now, "expected": then}
    return {**told, "wrong": len(wrong)}


def _anywhere(engine: Any, here: bool) -> bool:
    """Whether any rank says so; every rank is told the same."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return here
    word = torch.tensor([int(here)], device=engine.device)
    torch.distributed.all_reduce(word, op=torch.distributed.ReduceOp.MAX)
    return bool(word.item())


@contextlib.contextmanager
def _between(
    engine: Any, products: Products | None, events: list[dict[str, Json]], target: int | None, bit: int | None
) -> Iterator[None]:
    """Products after each step of the generation within; before it where the engine lets nobody between its steps."""
    if products is None:
        yield
        return
    step = -1

    def work() -> None:
        nonlocal step
        step += 1
        for _ in range(len(products)):
            if (event := products.run(target, bit)) is not None:
                told = dataclasses.asdict(event)
                told |= {"kind": "product", "step": step, "run": 0, "got": repr(event.got)}
                events.append(told | {"expected": repr(float(event.expected))})

    try:
        engine.between_steps(work)
    except Unsupported:
        work()
        yield
        return
    try:
        yield
    finally:
        engine.between_steps(None)


def _differing(first: _First, logits: F32, limit: float | None) -> list[dict[str, Json]]:
    """One entry for each step that is not as in the first run, with its worst number."""
    found: list[dict[str, Json]] = []
    for step, (got, want) in enumerate(zip(logits, first.logits, strict=True)):
        if limit is None:
            if digest.of_bytes(np.ascontiguousarray(got).tobytes()) == first.prints[step]:
                continue
        elif _error(got, want) <= limit:
            continue
        with np.errstate(invalid="ignore"):
            off = np.abs(got.astype(np.float64) - want.astype(np.float64))
        off[np.isnan(off)] = np.inf
        row, token = (int(one) for one in np.unravel_index(int(off.argmax()), off.shape))
        value, right = float(got[row, token]), float(want[row, token])
        found.append(
            {
                **{"kind": "logits", "run": first.run, "step": step, "row": row, "token": token},
                **{"got": repr(value), "expected": repr(right), "wrong": int((got != want).sum())},
                **{"largest": repr(float(off.max())), "finite": bool(np.isfinite(got).all())},
                **{"nrms": repr(_error(got, want))},
            }
        )
    return found


def _error(got: F32, want: F32) -> float:
    """RMS centred error over the spread of the first run's logits; infinite where a number is not finite."""
    if not np.isfinite(got).all():
        return float("inf")
    off = got.astype(np.float64) - want.astype(np.float64)
    off -= off.mean(axis=-1, keepdims=True)
    return float(np.sqrt((off * off).mean()) / max(want.astype(np.float64).std(), 1e-30))


def _token_event(first: _First, tokens: I64) -> dict[str, Json]:
    row, step = (int(one) for one in np.argwhere(tokens != first.tokens)[0])
    return {
        **{"kind": "token", "run": first.run, "step": step, "row": row, "token": int(tokens[row, step])},
        **{"got": str(int(tokens[row, step])), "expected": str(int(first.tokens[row, step])), "wrong": 1},
    }


def _logits(scores: Scores) -> F32:
    if scores.logits is None:
        raise BadInput("this engine keeps no logits: the comparison needs them")
    return scores.logits


def _prints(logits: F32) -> list[str]:
    return [digest.of_bytes(np.ascontiguousarray(step).tobytes()) for step in logits]


def _products(engine: Any, rows: int) -> Products | None:
    """Of the model's linear layers, largest first as far as memory is given; None in a dtype without known answers."""
    dtype = next((name for name, one in DTYPES.items() if one is next(engine.model.parameters()).dtype), None)
    sizes = {
        (int(module.in_features), int(module.out_features))
        for module in engine.model.modules()
        if isinstance(module, torch.nn.Linear)
    }
    if dtype is None or not sizes:
        return None
    tiles, kept, used = model_tiles(sizes, dtype, (1, rows)), [], 0
    for tile in sorted(tiles, key=lambda one: (-one.rows, one.inner * one.columns)):
        used += 8 * tile.inner * tile.columns
        if used <= _TILE_BYTES:
            kept.append(tile)
    return Products(dtype, 0, kept, engine.device) if kept else None
