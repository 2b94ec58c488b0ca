"""What a reference costs, in minutes, memory and disk, before it is begun: counts times rates. Pure; no clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Final

from genqual.conformance.oracle.core import Part
from genqual.conformance.oracle.spec import Model

WAYS: Final = 2
"""Attentions that fault-free runs are made with: eager and sdpa."""

START_S: Final = 10.0
"""Until a fresh process has imported torch and transformers, on two Xeon cores: 7 to 12 s."""

START_BYTES: Final = 300 << 20
"""What it then holds."""

BLOCKS, SIGNS = 4_000_000, 256
"""Weights that a streamed pass holds at once, a block on each of a few cores; columns that logits are projected to."""

WIDENED, EXACT, HASHED = 0.5, 0.6, 1.3e9
"""Measured on two EPYC cores: blocks are read from memory and widened, on both, twice as fast as `Rates.widened` says
of one; products in float64 of some thirty rows reach 0.6 of a square one's rate; SHA-256 takes 1.3 GB/s on one core."""

FETCHED: Final = 5e9
"""Bytes a second at which accelerate's hooks take offloaded weights from the page cache: measured on the same cores, 24
passes over 16 GB in 80 s."""

_CALLS: Final = 12
"""NumPy calls of a part, about."""


@dataclass(frozen=True, slots=True)
class Rates:
    """What this host does in a second: products in float64 and float32 (FLOP), reads for them (bytes), and the rest.

    `widened` float32 numbers made float64; `file` bytes of the checkpoint's files; `call` seconds of one small call.
    """

    product64: float
    product32: float
    memory: float
    widened: float
    file: float
    call: float


@dataclass(frozen=True, slots=True)
class Size:
    """What of a model costs: weights in all, those that a token reads, numbers kept a token, parts that are called."""

    weights: int
    active: int
    largest: int
    layers: int
    hidden: int
    vocabulary: int
    kept: int
    parts: int

    @classmethod
    def of(cls, model: Model) -> Size:
        """By the architecture's declaration."""
        shapes = model.shapes()
        parts: list[Part] = [part for block in model.blocks for part in block.parts()]
        layer = max(sum(prod(shape) for p in block.parts() for shape in p.shapes().values()) for block in model.blocks)
        return cls(
            weights=sum(prod(shape) for shape in shapes.values()),
            active=model.active_parameters(),
            largest=layer,
            layers=len(model.blocks),
            hidden=model.embedding.width,
            vocabulary=model.embedding.vocabulary,
            kept=model.cache_bytes(1, 1),
            parts=len(parts) + 2,
        )

    @classmethod
    def of_count(cls, weights: int, *, layers: int, hidden: int, vocabulary: int) -> Size:
        """Of an architecture that nobody declares: every weight is read by every token."""
        kept = 2 * layers * hidden
        return cls(weights, weights, weights // max(1, layers), layers, hidden, vocabulary, kept, 4 * layers)


@dataclass(frozen=True, slots=True)
class Cost:
    """An estimate: seconds of the oracle, seconds of each tolerance, bytes of memory and of disk."""

    oracle_s: float
    tolerances_s: float
    memory: float
    disk: float

    def sentence(self) -> str:
        """In words, as an estimate."""
        each = {"the oracle": self.oracle_s, "fault-free runs": self.tolerances_s}
        parts = ", ".join(f"{name} {duration(seconds)}" for name, seconds in each.items() if seconds)
        return (
            f"about {duration(self.oracle_s + self.tolerances_s)} ({parts}), {amount(self.memory)} of memory and "
            f"{amount(self.disk)} of disk"
        )


def cost(
    size: Size,
    rates: Rates,
    prompts: Sequence[int],
    steps: int,
    schemes: Sequence[str],
    *,
    stream: bool,
    stored: int,
    cached: bool = False,
    kept: int = 0,
) -> Cost:
    """Of a reference over prompts of these lengths, `steps` tokens each, with a tolerance for each of `schemes`.

    `stored` are the bytes of the checkpoint's files, and `cached` says that they fit into memory beside the rest, so
    that passes after the first read no disk. The fp32 run that comes first, and the emulation, are counted. `kept`
    bytes of weights are what streamed fault-free runs hold in memory.
    """
    read = sum(prompts)
    tokens = read + len(prompts) * steps
    once = size.weights / rates.widened + stored / rates.file
    if stream:
        oracle = _streamed(size, rates, prompts, steps, stored=stored, cached=cached)
    else:
        decoded = len(prompts) * steps * size.active * 8 / rates.memory
        oracle = once + decoded + 2 * size.active * (read + tokens) / rates.product64
    passes = len(prompts) * (steps + 1) * size.parts * _CALLS
    oracle += passes * rates.call
    once_read = not stream or cached
    runs = sum(_runs(size, rates, prompts, steps, stream=stream, stored=stored, once=once_read) * WAYS for _ in schemes)
    if schemes:  # fp32 comes first, then each scheme is emulated
        runs += _runs(size, rates, prompts, 1 if stream else steps, stream=stream, stored=stored, once=once_read) / 2
        emulated = 2 * size.active * tokens / rates.product64 + 3 * len(prompts) * size.weights / rates.widened
        runs += 0.0 if stream else len(schemes) * emulated
    logits = 8 * size.vocabulary * (max(prompts, default=0) + steps)
    held = 12 * size.weights
    if stream:  # blocks, and the logits that prove every choice, twice
        held = 8 * min(size.largest, BLOCKS) + 16 * min(1 << 25, len(prompts) * steps * size.vocabulary)
    memory = held + 4 * logits + 8 * SIGNS * size.vocabulary
    if schemes:
        memory += START_BYTES + (0 if stream else 4 * size.weights)
    if schemes and stream:  # what transformers keeps, and the widest matrix beside it as it is stored and widened
        ranks = START_BYTES + min(kept, 4 * size.weights) + 6 * size.vocabulary * size.hidden
        memory = max(memory, ranks)
    disk = len(prompts) * steps * (256 * 4 + 16 * 16)  # what the reference keeps
    if stream:
        disk += 8 * tokens * (size.kept + size.hidden)
    return Cost(oracle, runs, memory, float(disk))


def _streamed(size: Size, rates: Rates, prompts: Sequence[int], steps: int, *, stored: int, cached: bool) -> float:
    """Seconds of the streamed oracle: a pass in float32 for each step, then one in float64, and a head for each row.

    The weights are read for their hash first. A pass reads what its tokens choose: of a mixture, not every expert.
    """
    read, rows, file = sum(prompts), len(prompts), stored / size.weights / rates.file
    tokens = read + rows * steps
    each = WIDENED / rates.widened + (0.0 if cached else file)  # seconds a weight, on all cores
    chosen = sum(_read_by(size, rows if step else read) for step in range(steps))
    narrow = chosen * (each + 4 / rates.memory) + 2 * size.active * (read + rows * (steps - 1)) / rates.product32
    seen = _read_by(size, tokens) + rows * size.vocabulary * size.hidden
    exact = seen * (each + WIDENED / rates.widened) + 2 * size.active * tokens / (EXACT * rates.product64)
    return size.weights * (file + 4 / HASHED) + narrow + exact


def _read_by(size: Size, tokens: int) -> float:
    """Weights that `tokens` tokens of one pass read: those that all need, and the experts that some token chose."""
    share = size.active / size.weights  # each token draws its own experts
    return size.weights * (1.0 - (1.0 - share) ** tokens)


def _runs(
    size: Size, rates: Rates, prompts: Sequence[int], steps: int, *, stream: bool, stored: int, once: bool
) -> float:
    """Seconds of one process of fault-free runs: together with a cache, in one pass, and row by row.

    `once`: the files are read once, not in each pass.
    """
    tokens = sum(prompts) + len(prompts) * steps
    products = (2 if stream else 3) * 2 * size.active * tokens / rates.product32
    files = stored / rates.file * (1 if once else steps)
    if stream:  # fetched once a token and once more for the pass without a cache; their hash is taken when they load
        read = (steps + 1) * stored / FETCHED + 2 * size.weights / HASHED
    else:
        read = steps * (1 + len(prompts)) * size.weights * 4 / rates.memory
    return START_S + files + read + products


def duration(seconds: float) -> str:
    """12 s, 4 min, 3.5 h."""
    if seconds < 90:
        return f"{max(1.0, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def amount(count: float) -> str:
    """Bytes in a unit that a person reads."""
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{max(1.0, count / 1024):.0f} KiB"
