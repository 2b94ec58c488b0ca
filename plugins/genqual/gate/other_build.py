"""Another build for `--baseline-from`: a commit, a wheel or an environment, made ready for ranks. No torch."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import genqual
from genqual import digest
from genqual.errors import BadInput

_INSTALL_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class Build:
    """What ranks of another build are started with: which Python, and what it finds before its own packages."""

    name: str
    python: str
    path: tuple[str, ...]

    @property
    def former_names(self) -> bool:
        """Whether this build is of genqual from before its modules moved, and knows them by former names."""
        return any((Path(place) / "genqual" / "performance" / "alternate.py").is_file() for place in self.path)


def build_of(text: str, directory: Path) -> Build:
    """The build that `text` names, made ready below `directory`. Raises BadInput that says what was tried.

    An environment lends its Python and packages and runs this genqual; a wheel is put before what is installed here, so
    it may be of any package; a commit is of the repository that this genqual's checkout is.
    """
    place = Path(text)
    if place.is_dir():
        return _environment(place, directory)
    if text.endswith(".whl"):
        return _wheel(place, directory)
    return _commit(text, directory)


def _environment(place: Path, directory: Path) -> Build:
    python = place / "bin" / "python"
    if not os.access(python, os.X_OK):
        raise BadInput(
            f"--baseline-from {place}: a directory must be a virtual environment, and {python} is no program"
        )
    ours = directory / "ours"
    ours.mkdir(parents=True, exist_ok=True)
    link, here = ours / "genqual", Path(genqual.__file__).resolve().parent
    if not link.is_symlink() or link.readlink() != here:  # the state directory may be another checkout's, too
        fresh = ours / f"genqual.{os.getpid()}"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(here, target_is_directory=True)
        fresh.replace(link)
    return Build(str(place), str(python.absolute()), (str(ours.resolve()),))


def _wheel(place: Path, directory: Path) -> Build:
    if not place.is_file():
        raise BadInput(f"--baseline-from {place}: no such file")
    target = directory / f"wheel-{digest.of_file(place)[:16]}"
    if not target.is_dir():
        made = target.with_suffix(".part")
        shutil.rmtree(made, ignore_errors=True)
        done = subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(made), str(place)],
            capture_output=True, text=True, check=False, timeout=_INSTALL_S,
        )  # fmt: skip
        if done.returncode:
            raise BadInput(
                f"--baseline-from {place}: pip cannot install it: {done.stderr.strip() or done.stdout.strip()}"
            )
        made.rename(target)
    return Build(place.name, sys.executable, (str(target.resolve()),))


def _checkout() -> Path | None:
    """The checkout that this genqual runs from; with an installed wheel, the one that pytest was started in."""
    for place in (Path(genqual.__file__).resolve().parents[2], Path.cwd()):
        if (place / ".git").exists() and (place / "plugins" / "genqual").is_dir():
            return place
    return None


def absent(text: str) -> str:
    """Why no build `text` can be had here, or nothing; makes none."""
    if Path(text).is_dir():
        python = Path(text) / "bin" / "python"
        return (
            "" if os.access(python, os.X_OK) else f"a directory without a virtual environment: {python} is no program"
        )
    if text.endswith(".whl"):
        return "" if Path(text).is_file() else "no such file"
    why = unknown_commit(text)
    return why and f"no file, no directory, and {why}"


def unknown_commit(text: str) -> str:
    """Why no commit `text` can be had here, or nothing."""
    root, git = _checkout(), shutil.which("git")
    if git is None or root is None:
        return "neither this genqual nor the working directory is a git checkout that could have a commit of that name"
    return "" if _resolved(git, root, text) else f"{root} has no commit {text}"


def _resolved(git: str, root: Path, text: str) -> str:
    """The whole hash of a commit of `root`, or nothing."""
    found = subprocess.run(
        [git, "-C", str(root), "rev-parse", "--verify", "--quiet", "--end-of-options", f"{text}^{{commit}}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return "" if found.returncode else found.stdout.strip()


def _commit(text: str, directory: Path) -> Build:
    root, git = _checkout(), shutil.which("git")
    if git is None or root is None:
        raise BadInput(
            f"--baseline-from {text}: no file, no directory, and neither this genqual nor the working directory is a"
            " git checkout that could have a commit of that name; give a wheel or a virtual environment"
        )
    commit = _resolved(git, root, text)
    if not commit:
        raise BadInput(f"--baseline-from {text}: no file, no directory, and {root} has no such commit")
    target = directory / f"commit-{commit[:16]}"
    if not target.is_dir():
        packed = subprocess.run(
            [git, "-C", str(root), "archive", "--format=zip", commit, "plugins"], capture_output=True, check=False
        )
        if packed.returncode:
            raise BadInput(f"--baseline-from {text}: {packed.stderr.decode(errors='replace').strip()}")
        made = target.with_suffix(".part")
        shutil.rmtree(made, ignore_errors=True)
        # Not tar: before 3.11.4, Python cannot be told to refuse members that lead out of the folder.
        with zipfile.ZipFile(io.BytesIO(packed.stdout)) as archive:
            archive.extractall(made)
        made.rename(target)
    return Build(commit[:12], sys.executable, (str((target / "plugins").resolve()),))
