"""The weight files of a model on this machine, as loading reads them. Nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

from genqual.errors import Unsupported
from genqual.models.spec import ModelSpec


def weight_files(spec: ModelSpec) -> list[Path]:
    """The files that hold the weights of a directory, a GGUF file or a hub id, sorted; of an embedded model none.

    A hub id's are those of its snapshot in the local cache. Raises Unsupported where they cannot be found.
    """
    if spec.source == "embedded":
        return []
    if spec.source == "gguf":
        return [Path(spec.location)]
    place = Path(spec.location) if spec.source == "directory" else _snapshot(spec)
    found = sorted(place.glob("*.safetensors")) or sorted(place.glob("*.bin"))
    if not found:
        raise Unsupported(f"model {spec.name}: {place} holds neither safetensors nor .bin files")
    return found


def _snapshot(spec: ModelSpec) -> Path:
    """Where the local hub cache keeps this revision."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise Unsupported(f"model {spec.location}: the package huggingface_hub, which finds it, is absent") from error
    try:
        return Path(snapshot_download(spec.location, revision=spec.revision or None, local_files_only=True))
    except (OSError, ValueError) as error:  # what huggingface_hub raises for what is not in its cache
        first = str(error).strip().partition("\n")[0]
        raise Unsupported(
            f"model {spec.location}: no snapshot in the local hub cache ({first}); download it and name its directory"
        ) from error
