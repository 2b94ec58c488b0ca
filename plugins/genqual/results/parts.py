"""The parts of a record, but for its metrics and verdicts. Pure: no file, no network, no torch.

A minor version of the schema may add optional fields and nothing else, so that an older reader of the same major
version can leave them out.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable
from typing import Literal, Self

from pydantic import Field, model_validator

import genqual
from genqual import spec
from genqual.devices.base import HardwareIdentity
from genqual.models.spec import ModelSpec
from genqual.results.part import Count, Facts, Name, Part, Sha256

Status = Literal["ok", "oom", "timeout", "unsupported", "error", "accuracy_fail", "skipped"]
Origin = Literal["measured", "cited", "derived", "simulated"]


class System(Part):
    """The hardware: its mark, `class_id` without any host name, and how many places were `used` (cards, CPU cores)."""

    device: Name
    class_id: Name
    used: Count
    facts: Facts = Field(default_factory=dict)

    @classmethod
    def of(cls, identity: HardwareIdentity, used: int) -> Self:
        return cls(device=identity.device, class_id=identity.class_id, used=used, facts=dict(identity.facts))


class Software(Part):
    """What ran: genqual's own version and those of the distributions that can change a number."""

    genqual: Name
    versions: dict[str, Name] = Field(default_factory=dict)

    @classmethod
    def here(cls, distributions: Iterable[str] = ()) -> Self:
        """The versions installed here, read without importing; what is not installed is left out."""
        return cls(genqual=genqual.__version__, versions=installed(distributions))


class Model(Part):
    """What was run. `weights_sha256` is of the whole checkpoint, never of one rank's shard; null when only cited."""

    name: Name
    architecture: str = ""
    weights_sha256: Sha256 | None = None
    source: str = ""

    @classmethod
    def of(cls, model: ModelSpec, weights_sha256: str | None) -> Self:
        return cls(name=model.name, architecture=model.architecture, weights_sha256=weights_sha256, source=model.source)


class Engine(Part):
    """How it was run. `options` are ours and part of the key; `inspection` is what the engine says really ran."""

    name: Name
    ranks: Count
    parallelism: dict[str, Count] = Field(default_factory=dict)  # {"tensor": 2}
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


class Precision(Part):
    """The declared precision."""

    dtype: Name


class Workload(Part):
    """What was asked: a batch of `input_length` real tokens and `new_tokens` more, or a prompt set and its steps.

    Null is for what a cited source does not say.
    """

    batch: Count | None = None
    input_length: Count | None = None
    new_tokens: Count | None = None
    prompts: Name | None = None
    steps: Count | None = None

    @classmethod
    def of(cls, workload: spec.Workload) -> Self:
        return cls(batch=workload.batch, input_length=workload.input_length, new_tokens=workload.new_tokens)

    @property
    def label(self) -> str:
        """`b1-i128-n32`, or `eight-b8-s50` for a prompt set."""
        letters = (("b", self.batch), ("i", self.input_length), ("n", self.new_tokens), ("s", self.steps))
        words = [self.prompts] if self.prompts else []
        return "-".join([*words, *(f"{letter}{count}" for letter, count in letters if count is not None)]) or "-"


class Outcome(Part):
    """How it ended; `phase` (load, warmup, generate, score) and `message` say where and why when not ok."""

    status: Status = "ok"
    phase: str | None = None
    message: str | None = None

    @model_validator(mode="after")
    def _explained(self) -> Self:
        if self.status not in ("ok", "accuracy_fail") and not self.message:
            raise ValueError(f"status {self.status} needs a message: the person who reads the record asks why")
        return self


class Provenance(Part):
    """Where the numbers come from. Cited and derived numbers name their source."""

    kind: Origin = "measured"
    source: str | None = None

    @model_validator(mode="after")
    def _sourced(self) -> Self:
        if self.kind in ("cited", "derived") and not self.source:
            raise ValueError(
                f"provenance {self.kind} needs a source: where the number stands, or what it is derived from"
            )
        return self


def installed(distributions: Iterable[str]) -> dict[str, str]:
    """Version by distribution name, of those that are installed. Imports none of them."""
    found: dict[str, str] = {}
    for name in distributions:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
