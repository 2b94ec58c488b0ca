"""The files that hold a model's weights. Lists directories, reads nothing."""

from __future__ import annotations

from pathlib import Path

from genqual.models.spec import ModelSpec


def stored_files(spec: ModelSpec) -> list[Path]:
    """The weight files of a directory or of a GGUF model, sorted; none of an embedded model or of a hub id."""
    if spec.source == "gguf":
        return [Path(spec.location)]
    if spec.source != "directory":
        return []
    return sorted(file for file in Path(spec.location).glob("*.safetensors") if file.is_file())
