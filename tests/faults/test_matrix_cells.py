"""The matrix judges what is here: no cell of other hardware, weights or programs, and no engine by what it lacks."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from genqual.cases import Case
from genqual.commands.faults import faults, proved
from genqual.devices.base import kind_of
from genqual.engines import specs
from genqual.faults import CATALOGUE
from genqual.faults.matrix import plugin
from genqual.faults.matrix.cases import runs_of
from genqual.faults.matrix.store import MatrixCell, Store
from genqual.faults.matrix.tables import FaultMatrix
from genqual.session.context import RUN
from tests.here import CPU
from tests.models.checkpoints import llama_tiny

HERE = "cpu-amd-25-model-17-epyc-2c-avx512-bf16-24g-kvm"
CELL = MatrixCell("transformers", 1, "llama-tiny", "fp32", "stale_kv", "test_x", "alarm", hardware=HERE)


@pytest.mark.parametrize(
    ("engine", "fault", "fits"),
    [
        ("transformers", "crop_forgets", True),
        ("transformers:graphs=none", "crop_forgets", True),
        ("transformers:graphs=static", "crop_forgets", False),  # read in parts through a cache that is not timed
        ("transformers:graphs=compile", "kv_parts_lost", False),
        ("transformers-compiled", "stale_input", True),
        ("transformers-compiled:graphs=none", "stale_input", False),
        ("accelerate:placement=disk", "not_fetched_back", True),
        ("accelerate:placement=split", "not_fetched_back", False),
    ],
)
def test_a_fault_that_an_ability_shows_fits_where_the_options_leave_the_ability(
    engine: str, fault: str, fits: bool
) -> None:
    assert CATALOGUE[fault].fits(engine=engine, architecture="llama", ranks=1) is fits


def test_a_third_partys_options_take_away_what_faults_may_ask_for() -> None:
    spec = replace(specs.TRANSFORMERS, name="theirs")
    assert {"passes", "stops"} <= spec.fault_places
    recorded = replace(spec, options={"graphs": "compile"}).fault_places
    assert "passes" not in recorded
    assert {"graph", "stops"} <= recorded
    assert "speaks" in replace(spec, abilities={"speaks": "theirs:speak"}).fault_places, "an ability of their own"


@pytest.mark.parametrize(
    ("hardware", "subject", "judged"),
    [
        (HERE, "", True),
        (HERE.replace("2c", "1of2c"), "", True),  # fewer cores given to this process
        (HERE.replace("17", "1"), "", False),
        ("cuda-nvidia-h200", "", False),
        ("", "", False),
        (HERE, "other weights", False),
    ],
)
def test_a_cell_is_of_one_hardware_and_one_subject(tmp_path: Path, hardware: str, subject: str, judged: bool) -> None:
    store = Store(tmp_path / "cells.jsonl")
    store.add(CELL)
    assert Store(store.path).judged(CELL.key, hardware, subject) is judged


def test_a_cell_of_before_hardware_was_kept_is_of_a_processor(tmp_path: Path) -> None:
    store = Store(tmp_path / "cells.jsonl")
    store.add(replace(CELL, hardware=""))
    assert store.judged(CELL.key, HERE, "")
    assert not store.judged(CELL.key, "cuda-nvidia-h200", "")


def test_a_kind_of_processor_has_no_share_of_the_host() -> None:
    assert kind_of(HERE) == "cpu-amd-25-model-17-epyc-avx512-bf16-kvm"
    assert kind_of("cuda-nvidia-a100-80g") == "cuda-nvidia-a100-80g", "other memory, another card"


def stage(options: Any = None) -> plugin.Stage:
    run = SimpleNamespace(options=SimpleNamespace(of_engine=lambda settings: options or {}))
    return plugin.Stage(SimpleNamespace(stash={RUN: run}))  # type: ignore[arg-type]


def test_the_subject_of_a_cell_is_the_program_the_weights_and_the_code_behind_its_names(tmp_path: Path) -> None:
    case = Case("cpu", "transformers", "llama-tiny", "fp32")
    assert stage().subject(case) == "", "a released name: cells of before go on"
    program, other = replace(case, engine="external"), tmp_path / "engine.py"
    other.write_text("1")
    first = stage({"command": f"python {other}"}).subject(program)
    other.write_text("22")
    assert stage({"command": f"python {other}"}).subject(program) != first != ""
    assert stage({"endpoint": "http://a/v1"}).subject(case) != stage({"endpoint": "http://b/v1"}).subject(case)
    place = tmp_path / "model"
    llama_tiny(place)
    of_path = replace(case, model=str(place))
    first = stage().subject(of_path)
    shutil.rmtree(place)
    llama_tiny(place, rope_theta=7.0)
    assert stage().subject(of_path) != first != ""


def test_a_device_that_is_absent_is_told_before_a_store_of_another_is(tmp_path: Path) -> None:
    store = Store(tmp_path / "cells.jsonl")
    store.add(CELL)
    words = ["matrix", "--engines", "transformers:1", "--models", "llama-tiny", "--dtypes", "fp32", "--device", "hpu"]
    for command in ([*words, "--store", str(store.path)], ["run", "stale_kv", "--device", "hpu"]):
        done = CliRunner().invoke(faults, command)
        assert done.exit_code == 1
        assert "--device hpu: absent;" in str(done.exception)


@pytest.mark.parametrize(
    ("name", "words"),
    [("head_in_halves", ["--engine", "openvino"]), ("alibi_plus_constant", ["--model", "llama-tiny"])],
)
def test_a_control_that_fits_nowhere_proves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(faults, ["run", name, *words, "--device", CPU])
    assert done.exit_code == 1
    assert "nothing was judged, because it does not fit there" in str(done.exception)


def test_an_engine_is_proved_on_the_models_and_in_the_precisions_of_the_run() -> None:
    matrix = FaultMatrix([CELL])
    (run,) = runs_of("transformers:1", "llama-tiny", "fp32")
    assert proved(matrix, run, {"stale_kv"}, exactly=True)
    assert not proved(matrix, run, {"sign_flip"}, exactly=True), "what was chosen before is another question"
    for other in (replace(run, models=("bloom-tiny",)), replace(run, dtypes=("bf16",)), replace(run, cores=2)):
        assert not proved(matrix, other, {"stale_kv"}, exactly=True)
    assert not proved(matrix, replace(run, models=("bloom-tiny",)), set(), exactly=True), "not even judged"
    assert proved(matrix, replace(run, faults=False), {"stale_kv"}, exactly=True)


def test_what_a_store_holds_of_other_engines_excuses_no_survivor(tmp_path: Path) -> None:
    """One store for all, as the command has it: found on transformers, missed on the engine that is asked about."""
    store = Store(tmp_path / "cells.jsonl")
    store.add(CELL)
    store.add(replace(CELL, engine="accelerate:placement=disk", outcome="pass"))
    store.add(replace(CELL, engine="accelerate:placement=disk", dtype="bf16"))
    store.add(replace(CELL, fault="sign_flip", outcome="pass"))

    def told(*words: str) -> Any:
        return CliRunner().invoke(faults, ["matrix", "--show", "--store", str(store.path), *words])

    theirs = ("--engines", "accelerate:placement=disk:1", "--models", "llama-tiny")
    missed = told(*theirs, "--dtypes", "fp32")
    assert missed.exit_code == 1
    assert "1 faults, 1 unexplained survivors (stale_kv)" in missed.output
    assert told(*theirs, "--dtypes", "fp32,bf16").exit_code == 0
    ours = told("--engines", "transformers:1", "--models", "llama-tiny", "--dtypes", "fp32", "--faults", "stale_kv")
    assert ours.exit_code == 0, "sign_flip was not asked about"
    assert "1 faults, 0 unexplained survivors" in ours.output
    assert "2 faults, 1 unexplained survivors (sign_flip)" in told().output, "of the whole store"
