"""Which model exactly: what a name, which two models may share, does not say. Pure: reads files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from genqual import digest
from genqual.cases import Json
from genqual.errors import BadInput
from genqual.models import weights
from genqual.models.catalogue import cache_dir
from genqual.models.spec import ModelSpec

_BESIDE: Final = ("*.json", "*.jinja", "*.model", "*.txt")
"""What lies beside the weights and decides what they say: configuration, tokenizer, chat template."""


def short(spec: ModelSpec) -> str:
    """Eight digits of where the model comes from: two with one name, in two directories, differ."""
    return digest.of_text(f"{spec.source} {spec.location}@{spec.revision}")[:8]


def identity(spec: ModelSpec) -> dict[str, Json]:
    """What tells this model from every other: hashes of its weights and of the files beside them.

    Of a GGUF file the hash of the file; of a hub id, whose files lie with the engine, the id and its revision. Hashes
    of files are kept in the cache until a file changes.
    """
    if spec.source == "hub":
        return {"hub": f"{spec.location}@{spec.revision or 'main'}"}
    if spec.source == "gguf":
        return {"file": files_sha256([Path(spec.location)])}
    if spec.source == "embedded":
        return {"weights": weights.sha256(spec)}
    directory = Path(spec.location)
    beside = sorted({file for pattern in _BESIDE for file in directory.glob(pattern) if file.is_file()})
    try:
        held: dict[str, Json] = {"weights": weights.sha256(spec)}
    except BadInput:  # tensors of a type that is not read here: their bytes tell them apart as well
        every = sorted(file for file in directory.iterdir() if file.is_file() and file not in beside)
        held = {"files": files_sha256(every)}
    return held | {"beside": files_sha256(beside)}


def files_sha256(files: list[Path]) -> str:
    """SHA-256 over names and contents."""
    stats = [(str(file.resolve()), *digest.stamp(file)) for file in files]
    kept = cache_dir() / "hashes" / digest.of_text(json.dumps([3, stats]))
    if kept.is_file():
        return kept.read_text().strip()
    found = digest.of_text("".join(f"{file.name} {digest.of_file(file)}\n" for file in files))
    weights.keep(kept, found)
    return found
