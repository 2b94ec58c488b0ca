"""A case that could be timed and no longer can: the newest word on it is the failure, not the old number."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from genqual.analysis.cells import cells, waiver_of
from genqual.analysis.compare import compare
from genqual.analysis.report.rows import rows
from genqual.models import weights
from genqual.models.registry import resolve
from genqual.storage.sources import load
from tests.here import CPU
from tests.plugin.suite import numpy_engine, suite


@pytest.mark.parametrize(
    ("change", "status"),
    [({"num_attention_heads": "none such"}, "error"), ({"hidden_act": "none such"}, "unsupported")],
)
def test_a_model_that_no_longer_loads_takes_its_numbers_away(
    tmp_path: Path, change: dict[str, str], status: str
) -> None:
    model = tmp_path / "model"
    shutil.copytree(weights.directory(resolve("llama-tiny")), model)
    asked = (
        *("-m", CPU, "--benchmark", *numpy_engine()[:4], f"--model={model}", "--dtype", "fp32"),
        *("--batch-sizes", "1", "--input-lengths", "8", "--new-tokens", "4", "-k", "test_time_per_output_token"),
    )
    good = suite(tmp_path, *asked, "--allow-absent")
    assert good.returncode == 0, good.stdout + good.stderr
    place = f"{tmp_path}/results.db"
    before = load(place, newest=True)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | change))
    bad = suite(tmp_path, *asked)
    assert bad.returncode == 1, bad.stdout + bad.stderr
    (row,) = rows(load(place, newest=True), [])
    assert (row.status, row.tpot_ms) == (status, None)
    (pair,) = compare(before, load(place, newest=True)).rows[:1]
    assert pair.statuses == ("ok", status)
    assert pair.b is None


def test_a_model_that_no_longer_loads_takes_its_verdicts_away(tmp_path: Path) -> None:
    """And a waiver that knows the failure excuses it, though the ranks fail before the test itself begins."""
    model = tmp_path / "model"
    shutil.copytree(weights.directory(resolve("llama-tiny")), model)
    case = f"{CPU}-external-model-fp32"
    test = "test_repeat.py::test_a_repeated_request_gives_the_same_bits"
    asked = ("-m", CPU, *numpy_engine()[:4], f"--model={model}", "--dtype", "fp32", "-k", test.split("::")[1])
    good = suite(tmp_path, *asked)
    assert good.returncode == 0, good.stdout + good.stderr
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"rms_norm_eps": "none such"}))
    bad = suite(tmp_path, *asked)
    assert bad.returncode == 1, bad.stdout + bad.stderr
    place = f"{tmp_path}/results.db"
    assert [one.last.outcome.status for one in cells(load(place, newest=True), "judgement")] == ["error"]
    (tmp_path / f"{CPU}.toml").write_text(
        f'[[waiver]]\ntest = "{test}[{case}]"\nsays = "none such"\nissue = "tracker 12"\nexpires = 2999-01-01\n'
    )
    known = suite(tmp_path, *asked, f"--waivers={tmp_path}", "--allow-absent")
    assert known.returncode == 0, known.stdout + known.stderr
    assert "1 waived" in known.stdout
    said = " ".join(known.stdout.split())
    assert f'holds for any weights of that name; weights = "{weights.sha256(resolve("llama-tiny"))[:12]}"' in said
    (cell,) = cells(load(place, newest=True), "judgement")
    assert waiver_of(cell.last) == "tracker 12, until 2999-01-01"
