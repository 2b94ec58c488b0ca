"""From a name to a ModelSpec, without loading anything. Pure: NumPy, platformdirs, gguf where a file is one."""

from __future__ import annotations

import difflib
import json
import re
from pathlib import Path
from typing import Final

from genqual.errors import BadInput
from genqual.models import embedded, ggufread, safetensor
from genqual.models.catalogue import FETCHABLE, cache_dir
from genqual.models.spec import ModelSpec

__all__ = ["cache_dir", "known", "resolve"]

_HUB: Final = re.compile(r"(?P<id>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w./-]+))?")


def known() -> dict[str, str]:
    """Name -> one-line summary of every model that has a name: the embedded ones, then those that can be fetched."""
    fetched = {
        name: f"{item.summary}{'' if item.directory.is_dir() else f' (not here yet: {item.fetch_command()})'}"
        for name, item in FETCHABLE.items()
    }
    return {**embedded.SUMMARIES, **fetched}


def resolve(name: str) -> ModelSpec:
    """What `name` means: an embedded or fetched name, a checkpoint directory, a `.gguf` file, hub id `org/name[@rev]`.

    A local path wins over a hub id. Raises BadInput with the next step when there is no such thing or it is torn.
    """
    if name in embedded.NAMES:
        return ModelSpec(name, "embedded", name, str(embedded.config(name)["model_type"]))
    if name in FETCHABLE:
        item = FETCHABLE[name]
        directory = item.directory
        if not directory.is_dir():
            raise BadInput(f"model {name}: not in {directory.parent}; fetch it once with: {item.fetch_command()}")
        return _directory(directory, name)
    path = Path(name).expanduser()
    if name and path.is_dir():
        return _directory(path.absolute(), path.absolute().name)
    if path.is_file():
        if path.suffix != ".gguf":
            raise BadInput(f"model {name}: a file, but not .gguf; name the directory that holds config.json instead")
        return ModelSpec(path.stem, "gguf", str(path.absolute()), ggufread.architecture(path))
    hub = _HUB.fullmatch(name)
    if hub and path.suffix != ".gguf" and not name.startswith("."):
        return ModelSpec(hub["id"].rsplit("/", 1)[1], "hub", hub["id"], "", hub["revision"] or "")
    if "/" in name or path.suffix == ".gguf":
        raise BadInput(f"model {name}: no such file or directory; {_nearest_parent(path)}")
    close = difflib.get_close_matches(name, known(), n=3, cutoff=0.5)
    meant = f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(known())}."
    raise BadInput(f"model {name!r}: unknown; {meant} Or give a directory, a .gguf file or a hub id org/name.")


def _nearest_parent(path: Path) -> str:
    for parent in path.absolute().parents:
        if parent.is_dir():
            return f"{parent} exists, what follows does not: check the path"
    return "check the path"


def _directory(directory: Path, name: str) -> ModelSpec:
    file = directory / "config.json"
    if not file.is_file():
        raise BadInput(f"model {directory}: a directory without config.json; name the one that from_pretrained takes")
    try:
        architecture = json.loads(file.read_text())["model_type"]
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"model {directory}: config.json has no readable model_type ({error}); download it again"
        ) from error
    safetensor.checkpoint(directory)  # raises when a shard is missing or cut short
    return ModelSpec(name, "directory", str(directory), str(architecture))
