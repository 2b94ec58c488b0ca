"""A pinned commit in an environment of its own, so that no edit of ours is taken for drift of the host."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[3]


@dataclass(frozen=True, slots=True)
class Build:
    """A Python that has a commit of genqual and its engines' packages installed, and the tree of that commit."""

    python: Path
    tree: Path


def build(state: Path, purpose: str, commit: str, *, checkout: bool = False) -> Build:
    """The build of `commit` below `state`, made on the first call. Raises SystemExit with what failed.

    `checkout`: the tree is a git checkout that the environment runs from, as a developer's is: the gate can pair there.
    """
    place = state / f"{purpose}-{commit[:12]}-py{sys.version_info[0]}{sys.version_info[1]}"
    made = Build(place / "env" / "bin" / "python", place / "tree")
    if (place / "ready").is_file():
        return made
    print("building the pinned commit in an environment of its own, about two minutes", file=sys.stderr, flush=True)
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    (_cloned if checkout else _unpacked)(commit, made.tree)
    venv.create(place / "env", with_pip=True)
    ours = ["--editable", str(made.tree)] if checkout else [str(made.tree)]
    install = [*(str(made.python), "-m", "pip", "install", "--quiet"), *ours, "torch", "transformers", "accelerate"]
    # By file and not by -c: an isolated build of a dependency has to see the pins too.
    environment = {**os.environ, "PIP_CONSTRAINT": (made.tree / "constraints" / "xeon.txt").as_uri()}
    if subprocess.run(install, env=environment, check=False, stdout=sys.stderr).returncode:
        raise SystemExit(f"the pinned environment could not be installed below {place}; see above")
    (place / "ready").touch()
    return made


def _unpacked(commit: str, tree: Path) -> None:
    tree.mkdir()
    packed = _git("-C", str(ROOT), "archive", "--format=tar", commit, commit=commit)
    subprocess.run(["tar", "-x", "-C", str(tree)], input=packed, check=True)


def _cloned(commit: str, tree: Path) -> None:
    _git("clone", "--quiet", "--no-checkout", str(ROOT), str(tree), commit=commit)
    _git("-C", str(tree), "checkout", "--quiet", "--detach", commit, commit=commit)


def _git(*words: str, commit: str) -> bytes:
    done = subprocess.run([shutil.which("git") or "git", *words], capture_output=True, check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        raise SystemExit(f"{commit[:12]} is not in this checkout ({said}); fetch its history")
    return done.stdout
