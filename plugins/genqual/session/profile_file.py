"""The tables of a profile's TOML file, as pydantic models: which keys there are, of what type, with which defaults."""

from __future__ import annotations

from typing import Annotated, Any, Final, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from genqual.cases import PRECISIONS
from genqual.toml_file import Counts, Listed, Positive, Texts, TomlTable

NATIVE: Final = "native"  # among a profile's dtypes: the one that the device computes in, see Device.native_dtype


def _known(dtype: str) -> str:
    if dtype not in (*PRECISIONS, NATIVE):
        raise ValueError(f"genqual knows {', '.join((*PRECISIONS, NATIVE))}")
    return dtype


Plain = Annotated[str, BeforeValidator(str)]
"""A text, or a number that is kept as one."""


class CasesTable(TomlTable):
    """`[[conformance.cases]]` and `[[performance.cases]]`: an engine and what it runs."""

    engine: str
    models: Annotated[Texts, Field(min_length=1)]
    dtypes: Listed[Annotated[str, AfterValidator(_known)]] = ("fp32", "bf16")
    ranks: Counts = (1,)


class HostTable(TomlTable):
    """`[host]`: 0 cores leave placement to the system."""

    cores_per_rank: Annotated[int, Field(ge=0)] = 1


class ConformanceTable(TomlTable):
    """`[conformance]`."""

    prompts: str = "bloom"
    cases: Listed[CasesTable] = ()


class PerformanceTable(TomlTable):
    """`[performance]`. What `limits` may hold is for `metrics.slo` to say."""

    batch_sizes: Counts = (1,)
    input_lengths: Counts = (32,)
    new_tokens: Positive = 32
    repetitions: Positive = 5
    gate_budget: Positive | None = None
    largest_batch: Positive | None = None
    protocol: dict[str, Plain] = Field(default_factory=dict)
    limits: dict[str, Any] = Field(default_factory=dict)
    cases: Listed[CasesTable] = ()


class MiniatureTable(TomlTable):
    """`[miniature]`: which models stand for the profile's own."""

    models: dict[str, str] = Field(default_factory=dict)
    most_ranks: Positive = 1
    repetitions: Positive = 1


class ProfileFile(TomlTable):
    """A whole profile. Every model of a profile with a miniature has one that stands for it."""

    description: str = ""
    host: HostTable = HostTable()
    conformance: ConformanceTable = ConformanceTable()
    performance: PerformanceTable = PerformanceTable()
    miniature: MiniatureTable | None = None

    @model_validator(mode="after")
    def _stand_ins(self) -> Self:
        if self.miniature is not None:
            rows = (*self.conformance.cases, *self.performance.cases)
            missing = sorted({name for row in rows for name in row.models} - set(self.miniature.models))
            if missing:
                raise ValueError(f"[miniature] models has no entry for {', '.join(missing)}")
        return self
