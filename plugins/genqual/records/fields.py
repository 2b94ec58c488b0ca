"""The parts of a record, but for its metrics and verdicts. Pure: no file, no network, no torch.

A minor version of the schema may add optional fields and nothing else, so that an older reader of the same major
version can leave them out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Literal, Self

from pydantic import Field, model_validator

import genqual
from genqual import cases
from genqual.cases import Json
from genqual.models.spec import ModelSpec
from genqual.records.base import Count, Facts, Name, RecordPart, Sha256, Tally
from genqual.records.software import versions
from genqual.records.system import System

__all__ = [
    "GROWING",
    "OF_A_REQUEST",
    "Engine",
    "Model",
    "Origin",
    "Outcome",
    "Precision",
    "Provenance",
    "Software",
    "Status",
    "System",
    "Workload",
]

Status = Literal["ok", "oom", "timeout", "unsupported", "error", "accuracy_fail", "skipped"]
Origin = Literal["measured", "cited", "derived", "simulated"]


GROWING: Final = frozenset({"compilations", "counters", "graph_hits", "unaligned"})
"""What an inspection counts since loading: another number after every request, whatever was asked; and where weights
happen to lie in this process."""

OF_A_REQUEST: Final = frozenset({"cache_length", "generate", "last_generate", "tokens_a_piece"})
"""What an inspection says of the requests before it: true of the measurement that it follows, not of the engine."""


class Software(RecordPart):
    """What ran: genqual's own version and those of the distributions that can change a number.

    `source_sha256` is of the suite's own files, `commit` names what was checked out where the suite ran, and
    `freeze_sha256` is of every installed distribution with its version.
    """

    genqual: Name
    versions: dict[str, Name] = Field(default_factory=dict)
    python: Name | None = None
    commit: Name | None = None
    source_sha256: Sha256 | None = None
    freeze_sha256: Sha256 | None = None
    deepspeed_fork: Name | None = None
    deepspeed_commit: Name | None = None
    synapse: Name | None = None
    cuda: Name | None = None

    @classmethod
    def here(cls, distributions: Iterable[str] = (), **more: str | None) -> Self:
        """The versions installed here, read without importing; what is not installed is left out."""
        return cls.model_validate({"genqual": genqual.__version__, "versions": versions(distributions), **more})


class Model(RecordPart):
    """What was run. `weights_sha256` is of the whole checkpoint, never of one rank's shard; null when only cited.

    `checkpoint` is its layout on disk: `built` (from integers, no file), `safetensors`, `safetensors-3` (three
    shards), `bin`, `gguf`, `hub`; a source may give another.
    """

    name: Name
    architecture: str = ""
    weights_sha256: Sha256 | None = None
    source: str = ""
    revision: Name | None = None
    checkpoint: Name | None = None
    parameters: Count | None = None

    @classmethod
    def of(cls, model: ModelSpec, weights_sha256: str | None, *, checkpoint: str | None = None) -> Self:
        return cls(
            name=model.name,
            architecture=model.architecture,
            weights_sha256=weights_sha256,
            source=model.source,
            revision=model.revision or None,
            checkpoint=checkpoint,
        )


class Engine(RecordPart):
    """How it was run. `options` are ours and part of the key; `inspection` is what the engine says really ran.

    `parallelism` has any of `tensor`, `pipeline` and `data`; `streams` counts ranks or instances that ran side by side
    and shared nothing. `graphs`: whether decode steps were replayed (CUDA or HPU graphs, a compiled step). `offload`
    is where weights wait (`none`, `cpu`, `disk`, `nvme`), `kv_cache` the kind of cache (`dynamic`, `static`, `paged`,
    `none`). Null: not known.
    """

    name: Name
    ranks: Count
    parallelism: dict[str, Count] = Field(default_factory=dict)  # {"tensor": 2}
    streams: Count | None = None
    graphs: bool | None = None
    offload: Name | None = None
    kv_cache: Name | None = None
    options: Facts = Field(default_factory=dict)
    inspection: Facts = Field(default_factory=dict)

    @property
    def label(self) -> str:
        """`deepspeed-inference tp2`: as tables name it; `x8` where ranks are not known to share one model's tensors."""
        if self.ranks == 1:
            return self.name
        return (
            f"{self.name} tp{self.parallelism['tensor']}"
            if "tensor" in self.parallelism
            else f"{self.name} x{self.ranks}"
        )


class Precision(RecordPart):
    """The declared precision: `dtype` of the arithmetic, and the `scheme` where weights or cache are quantised."""

    dtype: Name
    scheme: Name | None = None


_TOLD = ("real_input_tokens", "real_new_tokens", "generate_arguments")


class Workload(RecordPart):
    """What was asked: a batch of `input_length` real tokens and `new_tokens` more, or a prompt set and its steps.

    `batch_scope` says whose batch it is: of all ranks together (`global`), or each rank's own (`rank`).
    `real_input_tokens` and `real_new_tokens` are what one run had, all rows together, without padding and without what
    follows an end-of-sequence token. `generate_arguments` are the engine's own, word for word. Null is for what a
    cited source does not say.
    """

    batch: Count | None = None
    input_length: Count | None = None
    new_tokens: Count | None = None
    prompts: Name | None = None
    steps: Count | None = None
    batch_scope: Literal["global", "rank"] | None = None
    real_input_tokens: Tally | None = None
    real_new_tokens: Tally | None = None
    generate_arguments: Facts | None = None

    @classmethod
    def of(cls, workload: cases.Workload, **more: Any) -> Self:
        asked = {"batch": workload.batch, "input_length": workload.input_length, "new_tokens": workload.new_tokens}
        kind = {"prompts": workload.prompts} if workload.prompts else {}
        return cls.model_validate({**asked, **kind, **more})

    @property
    def asked(self) -> Workload:
        """What was asked alone, without what came of it and how an engine was told; it can be a key."""
        return self.model_copy(update=dict.fromkeys(_TOLD))

    def defining(self) -> dict[str, Json]:
        """The same as plain data: part of the content key. A field that is added later, and null, keeps keys."""
        return self.model_dump(mode="json", exclude_none=True, exclude=set(_TOLD))

    @property
    def label(self) -> str:
        """`b1-i128-n32`, or `eight-b8-s50` for a prompt set."""
        letters = (("b", self.batch), ("i", self.input_length), ("n", self.new_tokens), ("s", self.steps))
        words = [self.prompts] if self.prompts else []
        return "-".join([*words, *(f"{letter}{count}" for letter, count in letters if count is not None)]) or "-"


class Outcome(RecordPart):
    """How it ended; `phase` (load, warmup, generate, score) and `message` say where and why when not ok.

    `bytes` is what memory was asked for when there was too little of it, as far as the allocator said.
    """

    status: Status = "ok"
    phase: str | None = None
    bytes: Tally | None = None
    message: str | None = None

    @model_validator(mode="after")
    def _explained(self) -> Self:
        if self.status not in ("ok", "accuracy_fail") and not self.message:
            raise ValueError(f"status {self.status} needs a message: the person who reads the record asks why")
        return self


class Provenance(RecordPart):
    """Where the numbers come from. Cited and derived ones name their source; `doubts` say what speaks against them."""

    kind: Origin = "measured"
    source: str | None = None
    url: str | None = None
    doubts: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _sourced(self) -> Self:
        if self.kind in ("cited", "derived") and not self.source:
            raise ValueError(
                f"provenance {self.kind} needs a source: where the number stands, or what it is derived from"
            )
        return self
