"""Building DeepSpeed's operator ahead of time: what it says, and a lock left behind by a build that was killed."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest

import genqual
from genqual.engines.deepspeed import prebuild
from genqual.errors import EngineFailed
from tests import services


def test_a_stale_baton_is_removed_and_said(tmp_path: Path) -> None:
    baton = tmp_path / "lock"
    baton.touch()
    long_ago = time.time() - 7200
    os.utime(baton, (long_ago, long_ago))
    said: list[str] = []
    prebuild._drop_stale_baton(baton, said.append)
    assert not baton.exists()
    assert "left behind 120 minutes ago" in said[0]


def test_a_baton_nobody_works_for_is_stale_soon(tmp_path: Path) -> None:
    baton = tmp_path / "lock"
    baton.touch()
    a_minute_ago = time.time() - 60
    os.utime(baton, (a_minute_ago, a_minute_ago))
    said: list[str] = []
    with subprocess.Popen([sys.executable, "-c", "input()"], cwd=tmp_path, stdin=subprocess.PIPE) as builder:
        prebuild._drop_stale_baton(baton, said.append)
        assert baton.exists()
        builder.kill()
    prebuild._drop_stale_baton(baton, said.append)
    assert not baton.exists()
    assert "killed" in said[0]


def test_a_young_baton_of_a_killed_build_is_waited_for_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It tells nothing at the first look; torch, asked then, would wait for ever."""
    monkeypatch.setattr(prebuild, "_MOMENT_S", 0.3)
    baton = tmp_path / "lock"
    baton.touch()
    said: list[str] = []
    prebuild._wait_for_baton(baton, said.append)
    assert not baton.exists()
    assert [line.split()[0] for line in said] == ["waiting", "removing"]


def test_a_build_that_never_ends_is_an_error_and_keeps_its_baton(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prebuild, "WAIT_S", 0.1)
    baton = tmp_path / "lock"
    baton.touch()
    with pytest.raises(EngineFailed, match="remove that file"):
        prebuild._wait_for_baton(baton, lambda text: None)
    assert baton.exists()


def test_a_fresh_baton_and_none_are_left_alone(tmp_path: Path) -> None:
    baton = tmp_path / "lock"
    said: list[str] = []
    prebuild._drop_stale_baton(baton, said.append)
    baton.touch()
    prebuild._drop_stale_baton(baton, said.append)
    assert baton.exists()
    assert said == []


def test_what_another_environment_built_is_not_called_ready(tmp_path: Path) -> None:
    """ninja compiles it anew, which takes minutes: two environments that alternate do so each time."""
    (tmp_path / "build.ninja").write_text("cflags = -isystem /venvs/one/torch/include -fPIC\n")
    assert not prebuild._anothers(tmp_path, "/venvs/one/torch/include")
    assert prebuild._anothers(tmp_path, "/one/torch/include")
    assert prebuild._anothers(tmp_path / "nowhere", "/venvs/one/torch/include")


def test_the_folder_of_headers_may_have_a_space_in_its_name(tmp_path: Path) -> None:
    (tmp_path / "build.ninja").write_text("cflags = -isystem '/my venvs/one/torch/include' -fPIC\n")
    assert not prebuild._anothers(tmp_path, "/my venvs/one/torch/include")
    assert prebuild._anothers(tmp_path, "/my venvs/one/torch")


PATHS = """
import sys
sys.path[:] = [path for path in sys.path if "site-packages" not in path] + [sys.argv[1], sys.argv[2]]
"""
COMPILE = f"""{PATHS}
import torch
from genqual.engines import compiling
compiling.prepare("cpu")
print(torch.__file__, float(torch.compile(lambda x: (x.sin() + 1).sum())(torch.zeros(1000))))
"""
BUILD = f"""{PATHS}
import torch.utils.cpp_extension as extension
from genqual.engines import prebuild
from pathlib import Path

class Builder:
    name = "tiny"
    def is_compatible(self, verbose): return True
    def load(self, verbose): return extension.load(name=self.name, sources=[sys.argv[3]], is_python_module=False)

import deepspeed.accelerator
deepspeed.accelerator.get_accelerator().create_op_builder = lambda name: Builder()
prebuild.deepspeed_on_cpu = lambda: None
print(extension.__file__, prebuild.prebuild(prebuild.to_stderr), prebuild.prebuild(prebuild.to_stderr))
"""


@pytest.mark.parametrize(
    ("script", "said"),
    [(BUILD, ["built", "cached"]), pytest.param(COMPILE, ["1000.0"], marks=pytest.mark.heavy)],
    ids=["an operator", "Inductor"],
)
def test_what_torch_compiles_links_below_a_path_with_a_space(script: str, said: list[str], tmp_path: Path) -> None:
    """Through a link, so that torch lies there without being copied; the operator is one that compiles in a second."""
    services.compiler()
    place = tmp_path / "a path with spaces"
    place.mkdir()
    packages, ours = Path(sysconfig.get_path("purelib")), Path(genqual.__file__).parents[1]
    (place / "packages").symlink_to(Path(torch_folder()).parent)
    source = place / "tiny.cpp"
    source.write_text('extern "C" int one() { return 1; }\n')
    folders = {"TORCH_EXTENSIONS_DIR": str(place / "built"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", script, str(place / "packages"), str(packages), str(source)],
        env=os.environ | folders | {"PYTHONPATH": str(ours)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "a path with spaces/packages/torch" in done.stdout
    assert done.stdout.split()[-len(said) :] == said


def torch_folder() -> str:
    spec = importlib.util.find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).parent)


def test_without_a_compiler_it_says_what_will_happen() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "genqual.engines.deepspeed.prebuild"],
        env={**os.environ, "CXX": "no-such-compiler"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "DeepSpeed will use gloo only" in done.stderr
    assert done.stdout == ""
