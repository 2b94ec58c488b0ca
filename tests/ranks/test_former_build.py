"""Ranks of a build from before the modules moved: paired with by the names of its own time."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import genqual
from genqual.cases import Case, Json
from genqual.gate.other_build import build_of
from genqual.ranks.client import Generator
from genqual.ranks.group_spec import plan
from genqual.ranks.leases import Leases
from genqual.ranks.pool import Pool
from tests.here import CPU

BEFORE = "86ce22acc583802fa214ff5878a83b913a29a4a4"  # the last commit that had every module under its former name
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(
    subprocess.run(["git", "cat-file", "-e", BEFORE], cwd=ROOT, capture_output=True, check=False).returncode != 0,
    reason="this checkout has no history: git fetch --unshallow",
)
def test_a_launch_of_a_build_from_before_the_move(tmp_path: Path) -> None:
    build = build_of(BEFORE, tmp_path)
    assert build.former_names
    ours = plan(Case(CPU, "transformers", "llama-tiny", "fp32", 1, 1), tmp_path)
    theirs = replace(ours, python=build.python, path=build.path, former_names=build.former_names)
    pool = Pool(1, leases=Leases(tmp_path / "leases"))
    params: dict[str, Json] = {
        **{"sections": ["decode"], "shape": {"hidden": 64, "layers": 1, "dtype": "fp32"}, "new_tokens": 9},
        **{"calls": {"decode": 2}, "slowdown": 0.05, "threads": 1},
    }
    try:
        reply = Generator(pool, theirs).invoke(
            "genqual.gate.rank_launch:launch", params, {"decode": np.full((1, 8), 7, dtype=np.int64)}
        )[0]
    finally:
        pool.close_all()
    assert reply.arrays["decode_times"].shape == (16, 3)


def test_a_build_of_today_keeps_its_names(tmp_path: Path) -> None:
    assert not build_of("HEAD", tmp_path).former_names


def test_an_environment_runs_this_genqual_whoever_used_the_state_before(tmp_path: Path) -> None:
    """A link to another checkout's genqual, or to one that is gone, would judge that one."""
    python = tmp_path / "env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch(mode=0o755)
    link = tmp_path / "builds" / "ours" / "genqual"
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "another checkout")
    for _ in range(2):
        build = build_of(str(tmp_path / "env"), tmp_path / "builds")
        assert link.resolve() == Path(genqual.__file__).resolve().parent
        assert build.path == (str(link.parent.resolve()),)
    assert [one.name for one in link.parent.iterdir()] == ["genqual"]
