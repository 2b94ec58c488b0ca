"""The matrix model by model, and `--until-found`: what survives, without asking who else would find it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from genqual.cases import Case
from genqual.commands.faults import faults
from genqual.faults import CATALOGUE
from genqual.faults.matrix.page import page
from genqual.faults.matrix.plugin import LIKELIEST, turn
from genqual.faults.matrix.store import FAULT_FREE, MatrixCell, Store
from genqual.faults.matrix.tables import FaultMatrix
from tests.here import CPU
from tests.plugin.suite import ROOT


def cell(model: str, fault: str, outcome: Any, dtype: str = "fp32", check: str = "test_a") -> MatrixCell:
    return MatrixCell("transformers", 1, model, dtype, fault, check, outcome)


CELLS = [
    cell("llama-tiny", FAULT_FREE, "pass"),
    cell("llama-tiny", "logits_plus_constant", "alarm"),
    cell("llama-tiny", "stale_kv", "alarm"),
    cell("llama-tiny", "embedding_scaled", "alarm"),
    cell("llama-tiny", "ignores_rms_norm_eps", "pass"),
    cell("bloom-tiny", "embedding_scaled", "pass"),
    cell("bloom-tiny", "embedding_scaled", "alarm", check="rule exact text"),
    cell("bloom-tiny", "stale_kv", "pass"),
    cell("bloom-tiny", "stale_kv", "alarm", "bf16"),
    cell("qwen3-tiny", "ignores_rms_norm_eps", "alarm"),
    cell("qwen3-tiny", "ignores_rms_norm_eps", "pass", "bf16"),
    cell("qwen3-tiny", "noise", "not judged"),
]


def test_a_fault_that_one_model_shows_may_survive_on_another() -> None:
    matrix = FaultMatrix(CELLS)
    llama, bloom, qwen = matrix.by_model()
    assert [one.model for one in (llama, bloom, qwen)] == ["llama-tiny", "bloom-tiny", "qwen3-tiny"]
    assert matrix.survivors() == [], "over all models none"
    assert bloom.survivors == ("embedding_scaled",), "a rule of others saves nobody"
    assert llama.survivors == ("ignores_rms_norm_eps",)
    assert qwen.survivors == ()
    assert bloom.missed("fp32") == ("stale_kv", "embedding_scaled"), "in the order of the catalogue"
    assert bloom.missed("declared") == ()
    assert qwen.missed("declared") == ("ignores_rms_norm_eps",)
    assert qwen.faults == ("ignores_rms_norm_eps",), "what was not judged is neither found nor missed"
    assert llama.fault_free == {"fp32": (2, 1), "declared": (0, 0)}


def test_the_page_has_a_row_a_model_and_names_what_survives_there() -> None:
    text = page(FaultMatrix(CELLS), "detection.svg")
    assert "| llama-tiny | 3 | 2 of 3 | not judged | 1 | 2, 1 |" in text
    assert "| bloom-tiny | 2 | 0 of 2 | 1 of 1 | 1 | 0, 0 |" in text
    assert "| all | 6 | 3 of 6 | 1 of 2 | 2 | |" in text
    assert "- bloom-tiny: `stale_kv`, `embedding_scaled`" in text
    assert "- bloom-tiny: `embedding_scaled` (embeddings are 1 % too large): a norm follows the embeddings" in text
    assert "- llama-tiny: `ignores_rms_norm_eps`" in text
    assert "not explained yet: a gap of the suite, or of this model" in text
    gone = page(FaultMatrix([cell("/gone/model", "embedding_scaled", "pass")]), "detection.svg")
    assert "- /gone/model: `embedding_scaled`" in gone


def test_the_page_says_which_model_shows_an_ignored_field() -> None:
    text = page(FaultMatrix(CELLS), "detection.svg")
    assert "| `rms_norm_eps` | - | qwen3-tiny F | llama-tiny |" in text
    without = [one for one in CELLS if not one.fault.startswith("ignores_")]
    assert "ignore a field" not in page(FaultMatrix(without), "detection.svg")


def test_the_command_writes_a_page_of_models(tmp_path: Path) -> None:
    store = Store(tmp_path / "cells.jsonl")
    for one in CELLS:
        store.add(one)
    asked = ["matrix", "--show", "--store", str(store.path), "--models-page", str(tmp_path / "a" / "models.md")]
    done = CliRunner().invoke(faults, asked)
    assert "models.md" in done.output
    text = (tmp_path / "a" / "models.md").read_text()
    assert "- 3 faults, 3 found, 0 survivors." in text
    assert "| bloom-tiny | 2 | 0 of 2 | 1 of 1 | 1 | 0, 0 |" in text
    assert "| `rms_norm_eps` | - | qwen3-tiny F | llama-tiny |" in text
    assert "Property by property" not in text, "who else would have found it was not asked"


def judged(store: Path, *names: str, quick: bool) -> dict[str, list[tuple[str, str]]]:
    """Checks and outcomes by fault, of one file of the suite on real ranks."""
    command = [sys.executable, "-m", "pytest", str(ROOT / "suites" / "conformance" / "test_greedy.py"), "-q"]
    command += ["-p", "genqual.faults.matrix.plugin", "-p", "no:cacheprovider", "--ranks", "1", "--no-upload"]
    command += ["-m", f"conformance and {CPU}", "--engine", "transformers", "--model=llama-tiny", "--dtype", "fp32"]
    command += ["--faults", ",".join(names), "--faults-store", str(store), f"--state-dir={store}.state"]
    command += ["--faults-until-found", "-rs"] if quick else []
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    assert ("the fault is found" in done.stdout) is quick, "what is left out is not run"
    found: dict[str, list[tuple[str, str]]] = {}
    for one in Store(store).cells.values():
        if one.outcome in ("pass", "alarm", "error"):
            found.setdefault(one.fault, []).append((one.check, one.outcome))
    return found


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[tuple[str, str]]]]:
    store = tmp_path_factory.mktemp("quick") / "cells.jsonl"
    return store, judged(store, FAULT_FREE, "stale_kv", "head_in_halves", quick=True)


def test_until_found_asks_no_more_of_a_fault_that_is_found(both: tuple[Path, Any]) -> None:
    _, found = both
    assert found["stale_kv"] == [("test_logits_match_the_oracle", "alarm")], "the likeliest comes first, others never"
    assert len(found[FAULT_FREE]) == 4, "of a right run everything is asked"
    assert len(found["head_in_halves"]) == 4, "and of a control"
    assert CATALOGUE["head_in_halves"].equivalent
    assert {outcome for name in (FAULT_FREE, "head_in_halves") for _, outcome in found[name]} == {"pass"}


def test_a_rule_of_others_finds_nothing_for_us(tmp_path: Path) -> None:
    store, case = Store(tmp_path / "cells.jsonl"), Case(CPU, "transformers", "llama-tiny", "fp32")
    store.add(cell("llama-tiny", "stale_kv", "alarm", check="rule exact text"))
    store.add(cell("llama-tiny", "stale_kv", "pass"))
    assert not store.found(case, "stale_kv")
    store.add(cell("llama-tiny", "stale_kv", "alarm", check="test_b[edge=32]"))
    assert store.found(case, "stale_kv")
    assert Store(store.path).found(case, "stale_kv"), "and after a restart"
    assert not store.found(replace(case, dtype="bf16"), "stale_kv")


def test_the_likeliest_are_tests_of_the_suite_and_come_first() -> None:
    text = "".join(file.read_text() for file in (ROOT / "suites" / "conformance").glob("test_*.py"))
    assert all(f"def {name}(" in text for name in LIKELIEST), "a test that was renamed would come last"
    names = ["test_every_logit_is_finite", *reversed(LIKELIEST)]
    items: list[Any] = [SimpleNamespace(originalname=name) for name in names]
    assert [one.originalname for one in sorted(items, key=turn)] == [*LIKELIEST, "test_every_logit_is_finite"]


def test_what_was_left_out_is_judged_when_all_is_asked(both: tuple[Path, Any]) -> None:
    store, quick = both
    whole = judged(store, "stale_kv", quick=False)["stale_kv"]
    ours = [check for check, _ in whole if check.startswith("test_")]
    assert len(ours) == 4 > len(quick["stale_kv"])
    assert any(check.startswith("rule ") for check, _ in whole)
