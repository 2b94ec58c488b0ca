"""A third party's engine is given every fault that fits it; one to which none fits is said to be unproved."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from genqual.faults import CATALOGUE, ignored_fields
from genqual.faults.matrix.cases import runs_of
from genqual.faults.matrix.store import FAULT_FREE, Store
from genqual.faults.matrix.tables import FaultMatrix
from tests.here import CPU, PYTHON
from tests.plugin.suite import ROOT

SPECS: Final = """
from genqual.engines.base import EngineSpec
from genqual.engines.specs import HF_ABILITIES

def spec(name, **more):
    return EngineSpec(name, "their_engine:Theirs", "eager transformers", frozenset({CPU}), frozenset({"fp32"}), **more)

THEIRS = spec("theirs", max_ranks=1, abilities=HF_ABILITIES)
BARE = spec("bare")
CACHELESS = spec("cacheless", faults=frozenset({"modules"}))
SHUT = spec("shut", tier="tokens", faults=frozenset())
"""
ENGINE: Final = """
from genqual.engines.hf.eager import TransformersEager

class Theirs(TransformersEager):
    name = "theirs"
"""
FITTING: Final = """
from genqual.faults import CATALOGUE, ignored_fields
import json, sys
print(json.dumps({engine: [name for name, one in CATALOGUE.items() if not one.equivalent
    and one.kind != "rank" and one.fits(engine=engine, architecture=sys.argv[1], ranks=1)] for engine in sys.argv[2:]}))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which a third party's distribution registers its engines."""
    site = tmp_path_factory.mktemp("site")
    (site / "their_specs.py").write_text(f"CPU = {CPU!r}\n{SPECS}")
    (site / "their_engine.py").write_text(ENGINE)
    info = site / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    names = "".join(f"{name} = their_specs:{name.upper()}\n" for name in ("theirs", "bare", "cacheless", "shut"))
    (info / "entry_points.txt").write_text(f"[genqual.engines]\n{names}")
    return {**os.environ, "PYTHONPATH": str(site)}


def fitting(env: dict[str, str], architecture: str, *engines: str) -> dict[str, set[str]]:
    words = [sys.executable, "-c", FITTING, architecture, *engines]
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=True)
    return {engine: set(names) for engine, names in json.loads(done.stdout).items()}


def matrix(store: Path, env: dict[str, str], *words: str, only: str = "") -> subprocess.CompletedProcess[str]:
    """`genqual faults matrix` of one case; of the suite the tests that `only` names, as pytest's -k does."""
    if only:
        env = {**env, "PYTEST_ADDOPTS": f"-k '{only}'"}
    command = [sys.executable, "-m", "genqual.cli", "faults", "matrix", "--models", "llama-tiny", "--dtypes", "fp32"]
    return subprocess.run(
        [*command, "--store", str(store), *words],
        cwd=ROOT, env=env, capture_output=True, text=True, timeout=3600, check=False,
    )  # fmt: skip


def test_an_engine_is_given_the_faults_for_which_it_has_a_place(installed: dict[str, str]) -> None:
    found = fitting(installed, "llama", "theirs", "bare", "cacheless", "shut", "transformers", "external")
    answers = {name for name, one in CATALOGUE.items() if one.group == "prompts and answers"}
    assert len(answers) == 10
    assert found["theirs"] >= found["transformers"] | answers
    assert len(found["theirs"]) >= 80
    assert found["external"] == answers
    assert found["shut"] >= answers, "whatever computes them, there are answers"
    assert found["bare"] < found["theirs"]
    assert "eos_ignored" not in found["bare"], "it shows in runs that stop, which this engine does not offer"
    assert {"stale_kv", "sign_flip", "second_best"} & found["cacheless"] == set()
    assert {"zeroed_head", "nan_logit"} <= found["cacheless"]
    assert {"rotary_theta_1pct", "alibi_missing"} & found["theirs"] == {"rotary_theta_1pct"}


def test_what_the_catalogue_tries_on_engines_of_genqual_is_as_it_was() -> None:
    """Named one by one, since the matrix chooses what is worth an hour; places are for everybody else's."""
    count = {
        (engine, ranks): sum(
            one.fits(engine=engine, architecture=architecture, ranks=ranks)
            for one in CATALOGUE.values()
            for architecture in ("llama", "bloom")
            if one.group != ignored_fields.GROUP
        )
        for engine, ranks in (("transformers", 1), ("deepspeed-inference", 2), ("deepspeed-zero", 2), ("openvino", 1))
    }
    # With the two faults of a process's first pass, on two architectures.
    counted_before = {"transformers": 179, "deepspeed-inference": 174, "deepspeed-zero": 119, "openvino": 1}
    assert {engine: number for (engine, _), number in count.items()} == counted_before
    (run,) = runs_of("external:1", "llama-tiny", "fp32")
    assert run.takes("answers_swapped", "llama-tiny", "fp32")


def test_an_engine_that_no_fault_fits_is_unproved(tmp_path: Path, installed: dict[str, str]) -> None:
    """No fault that wants a module tree fits an engine that shows tokens: nothing says what its pass is worth."""
    store = tmp_path / "cells.jsonl"
    command = ("--engine-command", f"{PYTHON} docs/examples/numpy_engine.py")
    done = matrix(store, installed, "--engines", "external:1", "--faults", "honest,stale_kv", *command, only="free_run")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "external x1 is unproved: no fault could be put into it" in done.stdout
    assert {cell.fault for cell in Store(store).cells.values()} == {FAULT_FREE}


@pytest.mark.heavy
def test_every_fault_of_an_engine_that_shows_tokens_only_is_found(tmp_path: Path, installed: dict[str, str]) -> None:
    store = tmp_path / "cells.jsonl"
    command = ("--engine-command", f"{PYTHON} docs/examples/numpy_engine.py")
    done = matrix(store, installed, "--engines", "external:1", *command)
    assert done.returncode == 0, done.stdout + done.stderr
    found = FaultMatrix(Store(store).cells.values())
    assert len(found.faults) == 10
    assert (found.survivors(), found.false_alarms(), found.errors) == ([], [], [])


@pytest.mark.heavy
def test_every_fault_that_fits_a_third_partys_engine_is_found(tmp_path: Path, installed: dict[str, str]) -> None:
    store = tmp_path / "cells.jsonl"
    done = matrix(store, installed, "--engines", "theirs:1")
    assert done.returncode == 0, done.stdout + done.stderr
    found = FaultMatrix(Store(store).cells.values())
    assert len(found.faults) >= 30
    assert (found.survivors(), found.false_alarms(), found.errors) == ([], [], [])


def test_a_sample_of_faults_in_a_third_partys_engine_is_found(tmp_path: Path, installed: dict[str, str]) -> None:
    store = tmp_path / "cells.jsonl"
    names = ("stale_kv", "sign_flip", "answers_swapped")
    done = matrix(store, installed, "--engines", "theirs:1", "--faults", ",".join(names))
    assert done.returncode == 0, done.stdout + done.stderr
    found = FaultMatrix(Store(store).cells.values())
    assert set(found.faults) == set(names)
    assert (found.survivors(), found.errors) == ([], [])
