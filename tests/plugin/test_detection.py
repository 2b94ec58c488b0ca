"""The matrix: cells that survive a kill, survivors and false alarms by name, and the real suite with real faults."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from genqual.commands.faults import faults
from genqual.commands.report import report
from genqual.conformance.faults import CATALOGUE
from genqual.detection.page import page
from genqual.detection.store import HONEST, Cell, Store
from genqual.detection.tables import Matrix, draw
from genqual.errors import BadInput
from tests.plugin.suite import ROOT


def cell(fault: str, check: str, outcome: str, dtype: str = "fp32") -> Cell:
    return Cell("transformers", 1, "llama-tiny", dtype, fault, check, outcome, "said")  # type: ignore[arg-type]


CELLS = [
    cell(HONEST, "test_a", "pass"),
    cell(HONEST, "test_b", "alarm"),
    cell("logits_plus_constant", "test_a", "alarm"),
    cell("logits_plus_constant", "rule dlogit 0.1", "alarm"),
    cell("stale_kv", "test_a[x=1]", "alarm"),
    cell("stale_kv", "test_a[x=2]", "pass"),
    cell("stale_kv", "test_a[x=2]", "alarm", "bf16"),
    cell("stale_kv", "rule exact text", "pass"),
    cell("sign_flip", "test_a", "pass"),
    cell("sign_flip", "rule exact text", "alarm"),
    cell("noise", "test_a", "not judged"),
]


def test_survivors_and_false_alarms_are_named() -> None:
    matrix = Matrix(CELLS)
    assert matrix.survivors() == ["sign_flip"], "a rule of others saves nobody"
    assert [(one.fault, one.check) for one in matrix.false_alarms()] == [
        (HONEST, "test_b"),
        ("logits_plus_constant", "test_a"),
    ]
    assert matrix.lanes("stale_kv", "test_a") == "FD"
    assert matrix.lanes("sign_flip", "test_a") == "."
    assert matrix.lanes("noise", "test_a") == " "
    assert matrix.share("rule exact text") == (1, 2, 0, 0)
    text = page(matrix, "detection.svg")
    assert "`sign_flip`" in text
    assert "1 survivors" in text
    assert "noise on transformers x1 llama-tiny" in text


def test_the_report_says_what_its_verdicts_are_worth(tmp_path: Path) -> None:
    store = Store(tmp_path / "cells.jsonl")
    for one in CELLS:
        store.add(one)
    out = tmp_path / "page.html"
    # By hand: stale_kv is found, sign_flip is not; the honest run and the equivalent one both alarm.
    assert Matrix(CELLS).judges()[:2] == [("this suite", 1, 2, 2, 2), ("exact text", 1, 2, 0, 0)]
    arguments = ["--published", "published", "-o", str(out), "--detection"]
    done = CliRunner().invoke(report, [*arguments, str(store.path)])
    assert done.exit_code == 0, done.output
    row = '<th scope="row">this suite</th><td class="n">1 of 2</td><td class="n">2 of 2</td>'
    assert row in out.read_text()
    missing = CliRunner().invoke(report, [*arguments, str(tmp_path / "none")])
    assert isinstance(missing.exception, BadInput)
    assert "genqual faults matrix --store" in str(missing.exception)


def test_the_heat_map_is_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("vl_convert")
    draw(Matrix(CELLS), tmp_path / "map.svg")
    assert (tmp_path / "map.svg").read_text().startswith("<svg")


def test_a_store_goes_on_after_a_kill(tmp_path: Path) -> None:
    store = Store(tmp_path / "cells.jsonl")
    for one in CELLS:
        store.add(one)
    store.add(cell(HONEST, "test_b", "pass"))
    with store.path.open("a") as stream:
        stream.write('{"engine": "tr')
    again = Store(store.path)
    assert len(again.cells) == len(CELLS)
    assert Matrix(again.cells.values()).false_alarms()[0].fault == "logits_plus_constant"
    store.path.write_text("{}\n" + store.path.read_text())
    with pytest.raises(BadInput, match="line 1"):
        Store(store.path)


def test_the_catalogue_is_large_and_proves_itself() -> None:
    wrong = [one for one in CATALOGUE.values() if not one.equivalent and one.kind != "rank"]
    assert len(wrong) >= 60
    assert sum(one.equivalent for one in CATALOGUE.values()) >= 3
    assert {one.group for one in wrong if one.sample} >= {"positions", "cache", "weights", "samplers and stopping"}


def test_the_command_lists_and_explains() -> None:
    said = CliRunner().invoke(faults, ["list", "--group", "cache"]).output
    assert "stale_kv" in said
    assert "sign_flip" not in said
    assert "genqual faults run stale_kv" in CliRunner().invoke(faults, ["show", "stale_kv"]).output
    assert isinstance(CliRunner().invoke(faults, ["show", "typo"]).exception, BadInput)
    assert isinstance(CliRunner().invoke(faults, ["list", "--group", "typo"]).exception, BadInput)


def run(tmp_path: Path, *names: str, more: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "genqual.cli", "faults", "matrix", "--store", str(tmp_path / "cells.jsonl")]
    where = ("--models", "llama-tiny", "--dtypes", "fp32", "--engines", "transformers:1")
    return subprocess.run(
        [*command, *where, "--faults", ",".join(names), *more],
        cwd=ROOT, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip


@pytest.mark.heavy
def test_real_faults_are_found_one_after_the_other_and_honest_runs_pass(tmp_path: Path) -> None:
    """Several in one live group: each is found, by its own property, and none reaches the next."""
    done = run(tmp_path, HONEST, "causal_leak", "eos_late", "remembered", "logits_plus_constant", "sign_flip")
    assert done.returncode == 0, done.stdout + done.stderr
    matrix = Matrix(Store(tmp_path / "cells.jsonl").cells.values())
    assert matrix.lanes("causal_leak", "test_later_tokens_never_alter_earlier_logits") == "F"
    assert matrix.lanes("eos_late", "test_a_row_ends_at_its_end_of_text") == "F"
    assert matrix.lanes("eos_late", "test_logits_match_the_oracle") == "."
    assert matrix.lanes("remembered", "test_a_request_leaves_nothing_behind") == "F"
    assert matrix.lanes("sign_flip", "test_logits_match_the_oracle") == "F"
    assert len(matrix.honest()) > 60
    assert not [cell for cell in matrix.cells if "Traceback" in cell.why or str(Path(__file__).parents[2]) in cell.why]
    before = len(matrix.cells)
    again = run(tmp_path, HONEST, "causal_leak", more=("--out", str(tmp_path)))
    assert again.returncode == 0, again.stdout + again.stderr
    assert len(Matrix(Store(tmp_path / "cells.jsonl").cells.values()).cells) == before
    assert (tmp_path / "detection.md").is_file()
