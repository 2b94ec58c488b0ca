"""What software is here, read from files and metadata. Imports none of it and runs nothing but `git describe`."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import subprocess
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Final

import genqual
from genqual import digest

COMMITS: Final = ("GENQUAL_COMMIT", "GITHUB_SHA", "CI_COMMIT_SHA", "GIT_COMMIT")
"""Where a CI says what it checked out, ours first."""

_GIT_S: Final = 10.0


def versions(distributions: Iterable[str]) -> dict[str, str]:
    """Version by distribution name, of those that are installed. Imports none of them."""
    found: dict[str, str] = {}
    for name in distributions:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def facts(root: Path) -> dict[str, str | None]:
    """The fields of `parts.Software` beside the versions; `root` is where the suite runs, for its commit."""
    fork, commit = _deepspeed()
    return {
        "python": platform.python_version(),
        "commit": _commit(root),
        "source_sha256": source_sha256(),
        "freeze_sha256": _freeze(),
        "deepspeed_fork": fork,
        "deepspeed_commit": commit,
        "synapse": versions(["habana-torch-plugin"]).get("habana-torch-plugin"),
        "cuda": _constant("torch", "version.py", "cuda"),
    }


@cache
def source_sha256() -> str:
    """SHA-256 over the suite's own Python files, by name: package, suites and fixtures, in a checkout or a wheel."""
    found = {
        path.relative_to(root).as_posix(): path
        for root in map(Path, genqual.__path__)
        for part in (("suites", "fixtures") if root != Path(genqual.__file__).parent else (".",))
        for path in (root / part).rglob("*.py")
    }
    return digest.of_text("".join(f"{name} {digest.of_file(path)}\n" for name, path in sorted(found.items())))


@cache
def _freeze() -> str:
    """SHA-256 over `name==version` of every installed distribution, as a freeze lists them."""
    lines = {f"{one.metadata['Name']}=={one.version}".lower() for one in importlib.metadata.distributions()}
    return digest.of_text("\n".join(sorted(lines)))


def _commit(root: Path) -> str | None:
    for name in COMMITS:
        if value := os.environ.get(name, "").strip():
            return value
    if not any((place / ".git").exists() for place in (root, *root.parents)):
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],  # noqa: S607 - the user's git
            capture_output=True,
            text=True,
            timeout=_GIT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def _deepspeed() -> tuple[str | None, str | None]:
    """Whose DeepSpeed this is and of which commit: from where pip took it, else from what its build wrote down."""
    try:
        distribution = importlib.metadata.distribution("deepspeed")
    except importlib.metadata.PackageNotFoundError:
        return None, None
    commit = _constant("deepspeed", "git_version_info_installed.py", "git_hash")
    commit = None if commit in ("unknown", "[none]") else commit
    direct = json.loads(distribution.read_text("direct_url.json") or "{}")
    if "vcs_info" in direct:
        fork = re.sub(r"^.*[/:]([^/:]+/[^/]+?)(\.git)?$", r"\1", direct["url"])
        return fork, direct["vcs_info"].get("commit_id") or commit
    return ("HabanaAI/DeepSpeed" if "hpu" in distribution.version else "deepspeedai/DeepSpeed"), commit


def _constant(package: str, file: str, name: str) -> str | None:
    """The value of `name = '...'` in a file of an installed package, which is not imported for it."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(next(iter(spec.submodule_search_locations))) / file
    if not path.is_file():
        return None
    match = re.search(rf"^{name}\b[^=\n]*=\s*['\"]([^'\"]*)['\"]", path.read_text(encoding="utf-8"), re.MULTILINE)
    return match[1] or None if match else None
