"""A checkpoint that quantises activations, from `genqual reference` to the suite's verdicts, as a user has them."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from genqual.cli import main
from genqual.errors import BadInput
from genqual.models.registry import resolve
from genqual.ranks.on_cpu import cpu_generator
from tests.here import CPU, PYTHON
from tests.models.quantised.changing import CHECKPOINTS
from tests.plugin.suite import suite

MODEL = str(CHECKPOINTS / "fp8-block")  # transformers widens it without a package besides
PROGRAM = f"{PYTHON} {shlex.quote(str(Path(__file__).with_name('narrow_engine.py')))}"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A cache with the reference, and its tolerance of fp8."""
    room = tmp_path_factory.mktemp("cache")
    env = {**os.environ, "GENQUAL_CACHE": str(room)}
    command = [sys.executable, "-m", "genqual", "reference", MODEL, "--steps", "12", "--schemes", "fp8"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "fp8 tolerance nrms" in done.stderr
    assert "an emulation in NumPy reads" in done.stderr
    return {"GENQUAL_CACHE": str(room)}


def judged(state: Path, cache: dict[str, str], *args: str) -> subprocess.CompletedProcess[str]:
    return suite(state, "-m", CPU, "--model", MODEL, "--no-upload", "--allow-absent", "-rs", *args, env=cache)


def test_transformers_is_judged_by_what_the_file_declares(tmp_path: Path, cache: dict[str, str]) -> None:
    run = judged(
        tmp_path, cache, "--engine", "transformers", "--dtype", "fp8", "-k", "oracle or drift or smaller or really_ran"
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "4 passed" in run.stdout
    assert "emulates fp8 here: weights are widened" in " ".join(run.stdout.split())


def test_in_the_precision_of_another_grid_it_is_unsupported(tmp_path: Path, cache: dict[str, str]) -> None:
    run = judged(tmp_path, cache, "--engine", "transformers", "--dtype", "int8-dynamic", "-k", "logits_match")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "quantises activations to e4m3 at run time, which is not int8-dynamic" in run.stdout


def test_an_engine_that_shows_tokens_is_unsupported_in_a_dtype(tmp_path: Path, cache: dict[str, str]) -> None:
    run = judged(
        tmp_path, cache, "--engine", "external", "--engine-command", PROGRAM, "--dtype", "bf16", "-k", "free_run"
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "1 skipped" in run.stdout
    assert "which is not bf16; declare it as it is: --dtype fp8, with a tolerance that `genqual" in run.stdout


@pytest.mark.parametrize(("factor", "right"), [("1", True), ("2", False)])
def test_an_engine_that_shows_tokens_is_judged_in_the_declared_precision(
    factor: str, right: bool, tmp_path: Path, cache: dict[str, str]
) -> None:
    program = f"{PROGRAM} {factor}"
    run = judged(
        tmp_path, cache, "--engine", "external", "--engine-command", program, "--dtype", "fp8", "-k", "free_run"
    )
    assert (run.returncode == 0) is right, run.stdout + run.stderr
    (record,) = [json.loads(path.read_text()) for path in (tmp_path / "spool").glob("*.json")]
    assert record["outcome"]["status"] == ("ok" if right else "accuracy_fail")


def test_a_scheme_of_another_grid_is_told_before_anything_long(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["reference", MODEL, "--schemes", "bf16,int8-dynamic"])
    assert stopped.value.code == 4
    said = capsys.readouterr().err
    assert "--schemes int8-dynamic: model fp8-block: quantises activations to e4m3" in said
    assert "reading the weights" not in said


@pytest.mark.parametrize("scheme", ["fp8", "int8-dynamic"])
def test_streamed_runs_that_round_no_activation_make_no_tolerance_of_it(scheme: str) -> None:
    """accelerate reads weights from disk and knows neither: its runs would be bf16's."""
    made = cpu_generator(resolve("llama-tiny"), scheme, None, progress=print, stream=True)
    with pytest.raises(BadInput, match=f"--schemes {scheme}: accelerate, .*leave --stream out"), made:
        pass
