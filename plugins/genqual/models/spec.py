"""What a model is, before anything is loaded. Pure: the standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

from genqual.cases import Json

Source = Literal["embedded", "directory", "gguf", "hub"]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Where a model comes from, resolved. `location` is an embedded name, an absolute path or a hub id."""

    name: str  # short, as it stands in ids: "llama-tiny", "smollm2-135m"
    source: Source
    location: str
    architecture: str  # HF model_type: "llama", "bloom"; "" when only loading will tell (hub)
    revision: str = ""

    def as_json(self) -> dict[str, Json]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> ModelSpec:
        return cls(**data)  # type: ignore[arg-type]
