"""What is installed is what is developed: the wheel carries suites, fixtures and baselines, and runs them anywhere."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import pytest

from tests.here import CPU
from tests.installed import ROOT, build, environment


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return environment(wheel, tmp_path_factory.mktemp("env"))


def test_the_wheel_carries_what_a_checkout_has(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    missing = [
        f"genqual/{path.relative_to(ROOT).as_posix()}"
        for top in ("suites", "fixtures", "baselines")
        for path in (ROOT / top).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    assert [name for name in missing if name not in names] == []
    assert not [name for name in names if name.startswith(("tests/", "suites/", "fixtures/"))]


def test_an_installed_wheel_judges_without_a_checkout(installed: Path, tmp_path: Path) -> None:
    where = subprocess.run(
        [installed, "-c", "import genqual, genqual.suites; print(genqual.__path__, genqual.suites.__file__)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(ROOT) not in where.stdout
    run = subprocess.run(
        [
            *(installed, "-m", "pytest", "--pyargs", "genqual.suites", "-m", CPU, "-p", "no:cacheprovider"),
            *("--engine", "transformers", "--model", "llama-tiny", "--dtype", "fp32", "-W", "error"),
            *("-k", "test_logits_match_the_oracle", "--strict-markers"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "1 passed" in run.stdout
    assert (tmp_path / ".genqual" / "results.db").is_file()
