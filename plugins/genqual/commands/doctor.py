"""`genqual doctor`: what is here, what is missing, what to do about it. Probes devices without initialising them."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import click

import genqual
from genqual.analysis.terminal.text import clean
from genqual.devices.base import Device, Presence
from genqual.devices.registry import devices
from genqual.errors import GenqualError, pip_install
from genqual.records.software import versions

EXTRAS: Final = ("xeon", "cuda", "hpu")  # devices with packages of their own; the others use those of `xeon`
PACKAGES: Final = ("torch", "transformers", "accelerate", "deepspeed", "gguf", "optimum-habana", "nvidia-ml-py")
COMPILERS: Final = ("c++", "ninja")
STATE: Final = Path(".genqual")

_ANSWER_S: Final = 10.0  # a compiler that takes longer to say its version will not build anything in time either


@click.command()
def doctor() -> None:
    """Look at this machine: devices, compilers, packages, where results go; then say what to do next.

    Exits with 1 when no device is here or results cannot be written.
    """
    click.echo(f"genqual {genqual.__version__}, Python {platform.python_version()}")
    present, steps = _devices()
    steps += _compilers()
    steps += _packages(present)
    writable, more = _results()
    steps += more
    _section("Next")
    for step in [*steps, *(f"pytest -m {name} --benchmark" for name in present)]:
        click.echo(f"  {step}")
    sys.exit(0 if present and writable else 1)


def _devices() -> tuple[list[str], list[str]]:
    _section("Devices")
    present = []
    for name, device in devices().items():
        found = device.probe()
        click.echo(f"  {name:<8} {'present' if found.present else 'absent':<8} {clean(found.found)}")
        click.echo(f"  {'':<17} looked with: {clean(found.probe)}")
        if found.present:
            present.append(name)
            click.echo(f"  {'':<17} class: {_class(device, found)}")
    if present:
        return present, []
    return [], ["no device was found; `pytest --allow-absent` collects and skips, and passes"]


def _class(device: Device, found: Presence) -> str:
    try:
        return f"{clean(device.identity().class_id)}, {found.count} places for ranks"
    except GenqualError as error:
        return f"not known: {error}"


def _compilers() -> list[str]:
    _section("Compilers")
    missing = [name for name in COMPILERS if not _compiler(name)]
    if not missing:
        return []
    return [f"install {' and '.join(missing)}: deepspeed-inference and transformers-compiled build code on first use"]


def _compiler(name: str) -> bool:
    path = shutil.which(name)
    if path is None:
        click.echo(f"  {name:<17} missing")
        return False
    try:
        answer = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=_ANSWER_S, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        click.echo(f"  {name:<17} {path} does not work: {error}")
        return False
    click.echo(f"  {name:<17} {path}: {clean(answer.stdout.partition(chr(10))[0])}")
    return True


def _packages(present: list[str]) -> list[str]:
    _section("Packages")
    here = versions(PACKAGES)
    for name in PACKAGES:
        click.echo(f"  {name:<17} {here.get(name, 'missing')}")
    if {"torch", "transformers"} <= here.keys() or not present:
        return []
    extra = present[0] if present[0] in EXTRAS else "xeon"
    return [f"{pip_install(extra=extra)} brings torch and transformers, which every engine here needs"]


def _results() -> tuple[bool, list[str]]:
    """Whether a run started here can keep its records; tried, not guessed, and nothing is left behind."""
    _section("Results")
    state = STATE.absolute()
    place = state if state.exists() else state.parent
    try:
        with tempfile.TemporaryFile(dir=place):
            click.echo(f"  {state} can be written")
    except OSError as error:
        click.echo(f"  {state} cannot be written: {error.strerror or error}")
        return False, ["run where files can be written, or give `pytest --state-dir DIR`"]
    return True, []


def _section(title: str) -> None:
    click.echo(f"\n{title}")
