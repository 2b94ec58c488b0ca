"""What an engine is, on both sides of the control connection. No torch: the pytest process reads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from genqual.cases import Json
from genqual.devices.registry import devices
from genqual.models.attention_shape import Sharing, why_not_shared
from genqual.models.spec import ModelSpec

Tier = Literal["logits", "tokens"]
"""What an engine lets us see of its computation, and so what it can be judged by."""

ABILITIES: Final[Mapping[str, str]] = {
    "passes": "does not offer reading a text in passes of given widths through one cache",
    "stops": "does not offer to stop at end-of-text ids, lengths or strings",
    "states": "does not show its hidden states",
    "inputs": "does not show what it does to its inputs",
    "first": "does not show the first pass of its process",
    "graph": "replays no graph and has no static cache",
    "split": "does not split layers over devices",
    "offload": "does not offload weights",
    "streams": "gives all ranks the same prompts",
    "top": "gives tokens only",
    "fields": "is sent no fields that it might ignore",
}
"""Ability -> what is said of an engine that lacks it. Those without a function of their own are declared with ""."""


FAULT_PLACES: Final[Mapping[str, str]] = {
    "answers": "`generate` gives tokens, whatever computes them",
    "config": "`model` is transformers' and made by a configuration: another may stand in its place",
    "modules": "`model` is the torch module tree of a Llama or a BLOOM as transformers has it, and its forward runs",
    "weights": "its weights lie in that tree, where one may be altered",
    "cache": "its attention is given a transformers Cache",
    "loop": "`run_generate` is what chooses the tokens: transformers' generate",
    "shards": "of several ranks each holds a shard of that tree",
}
"""Where faults can be put into an engine, for `EngineSpec.faults`."""


BEST: Final = 5
"""How many log-probabilities a token are asked for below the logits tier; OpenAI's completions give no more."""


@dataclass(frozen=True, slots=True)
class OnlyWith:
    """`ability` is there only where `option` has one of `values`; an option that is not given counts as `default`.

    For an option that changes which path is timed, where the ability would run on another one, and for an option that
    the ability is about: a property must judge what is timed, or nothing.
    """

    ability: str
    option: str
    values: tuple[Json, ...]
    default: Json
    reason: str  # why it is not there with other values, after the engine's name


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """An engine as the pytest process sees it: facts, and the implementation as an entry-point string.

    Registered under the entry point group `genqual.engines`; the object it names is an `EngineSpec`.
    """

    name: str
    implementation: str  # "package.module:Class", imported in the ranks only
    summary: str  # one line for --help and the docs
    devices: frozenset[str]  # names of devices, or of torch devices: `cuda` is every device that computes there
    dtypes: frozenset[str]
    min_ranks: int = 1
    max_ranks: int | None = None
    architectures: frozenset[str] = frozenset()  # HF model_type values; empty: any
    modules: tuple[str, ...] = ()  # what must be importable in the ranks, found without importing
    needs_compiler: bool = False
    lacks: tuple[tuple[str, str], ...] = ()  # (architecture, reason): upstream has no way to run it
    options: dict[str, Json] = field(default_factory=dict)
    accepts: Mapping[str, str] = field(default_factory=dict)  # option -> what it takes, one line; see `registry.engine`
    lacks_dtypes: tuple[tuple[str, str], ...] = ()  # (precision, reason): known, and upstream cannot run it here
    repeats_bits: bool = True  # the same request gives the same bits within a process; else the tolerance holds it
    sharing: Sharing = ""  # how its ranks share attention heads out
    streams: bool = False  # each rank generates for prompts of its own; it holds no shard of anybody's activations
    tier: Tier = "logits"  # "tokens": `score`, `score_prefill` and `weight_hash` are never asked
    settings: tuple[tuple[str, str], ...] = ()  # (option key, how the user gives it); without it the engine cannot run

    unseen: Mapping[str, str] = field(default_factory=dict)
    """Gated metrics that this engine cannot show, each with the reason: they are recorded without a value."""

    abilities: Mapping[str, str] = field(default_factory=dict)
    """What it can do beyond the Protocol, and the "package.module:function" that does it in a rank; see ABILITIES."""

    conditions: tuple[OnlyWith, ...] = ()
    """Options on which an ability depends."""

    faults: frozenset[str] | None = None
    """Where faults can be put into it, see FAULT_PLACES; None: everywhere in an engine that shows logits.

    So it is with any subclass of `engines.hf.HfEngine`. A fault without a place after all leaves its cells unjudged.
    """

    @property
    def fault_places(self) -> frozenset[str]:
        """What a fault may ask for: the places, and the abilities, by which some faults can be seen alone.

        Of the abilities only those that are there with the engine's options: without one, no property looks there.
        """
        places = self.faults
        if places is None:
            places = frozenset(FAULT_PLACES if self.tier == "logits" else ())
            places -= {"shards"} if self.streams else set()
        return places | {"answers"} | {one for one in self.abilities if one not in ABILITIES or not self.lacking(one)}

    def lacking(self, ability: str) -> str | None:
        """Why a property that needs `ability` is not applicable to this engine with its options, or None.

        Raises KeyError on a typo.
        """
        said = f"{self.name} {ABILITIES[ability]}"
        if ability not in self.abilities:
            return said
        for one in self.conditions:
            if one.ability == ability and self.options.get(one.option, one.default) not in one.values:
                return f"{self.name} {one.reason}"
        return None

    def why_not(
        self,
        *,
        device: str,
        dtype: str,
        ranks: int,
        architecture: str,
        config: Mapping[str, object] | None = None,
    ) -> str | None:
        """The reason this engine cannot run that, or None. Facts only: nothing is imported or probed.

        `config` is the model's, where it can be read here; a hub id tells it to the ranks only, which ask again.
        """
        if not {device, _torch_device(device)} & self.devices:
            return f"{self.name} runs on {', '.join(sorted(self.devices))}, not on {device}"
        for name, reason in self.lacks_dtypes:
            if name == dtype:
                return reason
        if dtype not in self.dtypes:
            return f"{self.name} runs {', '.join(sorted(self.dtypes))}, not {dtype}"
        if ranks < self.min_ranks or (self.max_ranks is not None and ranks > self.max_ranks):
            most = "any number" if self.max_ranks is None else str(self.max_ranks)
            some = f"{self.min_ranks} to {most} ranks" if most != "1" else "one rank"
            return f"{self.name} takes {some}, not {ranks}"
        for name, reason in self.lacks:
            if name == architecture:
                return reason
        # A hub id tells its architecture only when it is loaded; the engine then says so itself.
        if self.architectures and architecture and architecture not in self.architectures:
            return f"{self.name} knows {', '.join(sorted(self.architectures))}, not {architecture}"
        shared = None if config is None or self.tier == "tokens" else why_not_shared(config, ranks, self.sharing)
        return None if shared is None else f"{self.name}: {shared}"


def _torch_device(name: str) -> str:
    """What a device called `name` is to torch; the name itself where no such device is registered."""
    known = devices()
    return known[name].torch_device if name in known else name


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Prompts as a model sees them: `ids`, `mask` (rows, length) int64, left padded, mask 1 on real tokens."""

    ids: NDArray[np.int64]
    mask: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.ids.ndim != 2 or self.ids.shape != self.mask.shape or 0 in self.ids.shape:
            raise ValueError(f"ids {self.ids.shape} and mask {self.mask.shape}: both must be (rows, length), not empty")
        if not self.mask[:, -1].all():
            raise ValueError("left padding only: the last column must be real tokens")

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]], *, pad_id: int = 0, length: int | None = None) -> TokenBatch:
        """Left pad `rows` to `length` (default: the longest row) with `pad_id`. Raises ValueError on an empty row."""
        if not rows or any(len(row) == 0 for row in rows):
            raise ValueError("a batch needs at least one row, and a row at least one token")
        width = max(len(row) for row in rows) if length is None else length
        if width < max(len(row) for row in rows):
            raise ValueError(f"length {width} is shorter than the longest row, {max(len(row) for row in rows)}")
        ids = np.full((len(rows), width), pad_id, dtype=np.int64)
        mask = np.zeros((len(rows), width), dtype=np.int64)
        for index, row in enumerate(rows):
            ids[index, width - len(row) :] = row
            mask[index, width - len(row) :] = 1
        return cls(ids, mask)

    @classmethod
    def unchecked(cls, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> TokenBatch:
        """A batch that breaks the rules, to see what a rank says to it."""
        made = object.__new__(cls)
        object.__setattr__(made, "ids", ids)
        object.__setattr__(made, "mask", mask)
        return made

    @property
    def rows(self) -> list[list[int]]:
        """The real tokens of each row, padding removed."""
        return [
            [int(t) for t, m in zip(ids, mask, strict=True) if m] for ids, mask in zip(self.ids, self.mask, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """What a rank must load. `device` is torch's name; `cores` the CPUs this rank may use (empty: not bound)."""

    model: ModelSpec
    dtype: str
    device: str
    rank: int
    world_size: int
    local_rank: int
    local_size: int
    threads: int
    options: dict[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What loading gave on one rank: seconds, bytes of weights held by this rank, vocabulary and position limit.

    An engine of the tokens tier may not see all of it: zero seconds, bytes or parameters mean "not known".
    """

    load_s: float
    weight_bytes: int
    parameters: int
    vocabulary: int
    max_positions: int | None  # None: no hard limit (ALiBi)
    kv_bytes_per_token: int  # of one row, on this rank; 0 in a model that keeps a state only
    weight_hash: str  # of what this rank holds; compared after a failure, to know that nothing was mutated
    phases: dict[str, float] = field(default_factory=dict)  # seconds by phase: import, read, shard, compile
    state_bytes: int = 0  # of one row, on this rank: convolution and recurrent states, whatever its length
    lacks: dict[str, str] = field(default_factory=dict)  # abilities that this model does not allow: why

    @property
    def loading_s(self) -> float:
        """Seconds of loading without those of importing software, which vary more than all the rest."""
        return self.load_s - self.phases.get("import", 0.0)


@dataclass(frozen=True, slots=True)
class Generated:
    """A greedy run on one rank. Times are seconds on the rank's monotonic clock, synchronised on the device.

    `tokens` (rows, new_tokens) int64; `step_s` (new_tokens,) seconds from the start of the call until step t's tokens
    were on the host, so step_s[0] is TTFT and differences are inter-token latencies; `cpu_s` CPU seconds of the rank.
    `streamed` (rows,) int64 are the first step's tokens as they were when TTFT was stamped; None where not known.
    `top_ids` int64 and `top_logprobs` float64 (new_tokens, rows, best) are the best tokens of each step with their
    natural log-probabilities, two at least; None where the engine does not tell, or was not asked.
    `cached_tokens` (rows,) int64 are the prompt's tokens that a cache of earlier requests answered, -1 where the engine
    does not say; None: it says so of no row.
    `pieces` (new_tokens,) int64, never falling, has one number for all tokens that arrived together: the stamps of one
    piece say nothing of its single tokens. None: each token arrived by itself. `untold` is why no token has a time of
    its own, where nobody says how many tokens a piece had; `pieces` is then of the first piece only, or None.
    """

    tokens: NDArray[np.int64]
    step_s: NDArray[np.float64]
    wall_s: float
    cpu_s: float
    streamed: NDArray[np.int64] | None = None
    top_ids: NDArray[np.int64] | None = None
    top_logprobs: NDArray[np.float64] | None = None
    cached_tokens: NDArray[np.int64] | None = None
    pieces: NDArray[np.int64] | None = None
    untold: str = ""


@dataclass(frozen=True, slots=True)
class Scores:
    """Statistics of the logits at each forced step, in float64 on the rank's CPU, never on the device under test.

    `projections` (steps, rows, 256) float32, see `engines.projection`; `top_ids` and `top_logits` (steps, rows, 16),
    best first; `logsumexp`, `forced_logit` (steps, rows) float64; `finite` (steps, rows) bool; `logits` (steps, rows,
    vocabulary) float32 only when asked for, else None. Where a row's logits are not finite its other statistics are
    zero and mean nothing.
    """

    projections: NDArray[np.float32]
    top_ids: NDArray[np.int64]
    top_logits: NDArray[np.float64]
    logsumexp: NDArray[np.float64]
    forced_logit: NDArray[np.float64]
    finite: NDArray[np.bool_]
    logits: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on one rank: `peak` since the last reset, `current`, and how they were read; 0: they could not be."""

    peak: int
    current: int
    source: str  # "VmHWM of /proc/self/status, less programs' files and imports", "torch.cuda.max_memory_allocated"


class Engine(Protocol):
    """A way to run a model on a device. Lives in a rank; every method is collective, called by all in the same order.

    Raises Unsupported (with upstream's reason) or OutOfMemory where that is the outcome; anything else is a fault.
    """

    model: Any  # torch.nn.Module of this rank; what faults are injected into

    def load(self, request: LoadRequest) -> Loaded: ...

    def generate(self, batch: TokenBatch, new_tokens: int) -> Generated:
        """Greedy, exactly `new_tokens` a row (no early stop), no hook between steps: the timed path."""
        ...

    def score(self, batch: TokenBatch, forced: NDArray[np.int64], *, logits: bool = False) -> Scores:
        """Force `forced` (rows, steps) through the same decode loop as `generate`, recording before each choice."""
        ...

    def score_prefill(self, batch: TokenBatch, forced: NDArray[np.int64], *, logits: bool = False) -> Scores:
        """The same statistics from one pass over prompt + forced, without any cache."""
        ...

    def between_steps(self, callback: Callable[[], None] | None) -> None:
        """Call `callback` between decode steps of later `generate` calls (None: stop). Raises Unsupported."""
        ...

    def memory(self, *, reset: bool = False, trim: bool = False) -> Memory:
        """Bytes of this rank. `trim` first gives back what is freed; `reset`, then, begins the next peak."""
        ...

    def weight_hash(self) -> str: ...

    def inspect(self) -> dict[str, Json]:
        """Which kernels, shards and settings really run: evidence for the record and for tests."""
        ...
