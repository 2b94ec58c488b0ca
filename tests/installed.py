"""The wheel of this checkout, and an environment that has it: what is installed is what a user of genqual runs."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]


def build(out: Path) -> Path:
    """The wheel, in `out`."""
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = out.glob("genqual-*.whl")
    return found


def environment(wheel: Path, place: Path) -> Path:
    """The python of an environment that has the wheel, and for everything else the environment of these tests."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(place)}))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    others = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (site / "others.pth").write_text("\n".join(others) + "\n")
    return place / "bin" / "python"


def program(python: Path, name: str, *arguments: str, before: str = "") -> Path:
    """A program `name` beside `python`, as an installer writes it: `python ARGUMENTS ...`, after the line `before`."""
    path = python.parent / name
    words = " ".join(f"'{one}'" for one in arguments)
    path.write_text(f'#!/bin/sh\n{before}\nexec "$(dirname "$0")/python" {words} "$@"\n', encoding="utf-8")
    path.chmod(0o755)
    return path
