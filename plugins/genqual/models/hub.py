"""Where the local Hugging Face cache keeps the checkpoint of a hub id. Pure: the standard library; no network."""

from __future__ import annotations

import os
from pathlib import Path

from genqual.models.spec import ModelSpec


def cache_root() -> Path:
    """The folder of hub repositories, by the variables that huggingface_hub reads, in its order."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(name):
            return Path(os.environ[name]).expanduser()
    home = os.environ.get("HF_HOME")
    if home:
        return Path(home).expanduser() / "hub"
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(caches).expanduser() / "huggingface" / "hub"


def snapshot(spec: ModelSpec) -> Path | None:
    """The directory in the cache that holds a hub id's revision (default: main), or None where there is none.

    A branch or tag is followed to the commit that was downloaded last. What the hub has since then is not asked.
    """
    repository = cache_root() / f"models--{spec.location.replace('/', '--')}"
    wanted = spec.revision or "main"
    reference = repository / "refs" / wanted
    commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else wanted
    found = repository / "snapshots" / commit
    return found if commit and found.is_dir() else None


def how_to_get(spec: ModelSpec) -> str:
    """The next step of somebody whose hub id is not in the cache; it may have been meant as a path."""
    return (
        f"download {spec.location} into the hub cache (it is not in {cache_root()}), or name the directory that holds "
        f"config.json and safetensors (there is none at {Path(spec.location).absolute()})"
    )
