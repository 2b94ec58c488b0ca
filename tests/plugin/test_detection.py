"""The matrix: cells that survive a kill, survivors and false alarms by name, and the real suite with real faults."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from genqual.cases import Case
from genqual.commands.faults import faults
from genqual.commands.report import report
from genqual.conformance.references.make import make, with_envelope
from genqual.conformance.scores import scores_of
from genqual.errors import BadInput
from genqual.faults import CATALOGUE
from genqual.faults.matrix import plugin, tiers
from genqual.faults.matrix.page import page
from genqual.faults.matrix.store import FAULT_FREE, MatrixCell, Store
from genqual.faults.matrix.tables import FaultMatrix, draw
from genqual.session.context import RUN
from genqual.session.waivers import Register, Waiver
from tests.conformance.pretend import TableOracle, forced_logits, noise, table
from tests.faults import broken_injectors
from tests.here import CPU
from tests.plugin.suite import ROOT


def cell(fault: str, check: str, outcome: str, dtype: str = "fp32") -> MatrixCell:
    return MatrixCell("transformers", 1, "llama-tiny", dtype, fault, check, outcome, "said")  # type: ignore[arg-type]


CELLS = [
    cell(FAULT_FREE, "test_a", "pass"),
    cell(FAULT_FREE, "test_b", "alarm"),
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
TIERED = [
    *CELLS,
    cell(FAULT_FREE, "tier top 5", "pass"),
    cell(FAULT_FREE, "tier tokens", "pass"),
    cell("logits_plus_constant", "tier top 5", "pass"),
    cell("logits_plus_constant", "tier tokens", "alarm"),
    cell("stale_kv", "tier top 5", "alarm"),
    cell("stale_kv", "tier tokens", "pass"),
    cell("stale_kv", "tier tokens", "alarm", "bf16"),
    cell("sign_flip", "tier top 5", "alarm"),
    cell("sign_flip", "tier tokens", "pass"),
    cell("noise", "tier tokens", "not judged"),
]


def test_survivors_and_false_alarms_are_named() -> None:
    matrix = FaultMatrix(CELLS)
    assert matrix.survivors() == ["sign_flip"], "a rule of others saves nobody"
    assert [(one.fault, one.check) for one in matrix.false_alarms()] == [
        (FAULT_FREE, "test_b"),
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


def test_a_known_failure_of_an_engine_is_no_false_alarm_and_is_listed() -> None:
    matrix = FaultMatrix([*CELLS[:1], cell(FAULT_FREE, "test_c", "known"), cell("stale_kv", "test_a", "alarm")])
    assert matrix.false_alarms() == []
    assert [one.check for one in matrix.fault_free()] == ["test_a", "test_c"]
    text = page(matrix, "detection.svg")
    assert "2 judgements of fault-free and equivalent runs, 0 false alarms, 1 known" in text
    assert "### Known failures of engines" in text
    assert "c on transformers x1 llama-tiny fp32, honest: said" in text
    assert "Known failures" not in page(FaultMatrix(CELLS), "detection.svg")


@pytest.mark.parametrize(
    ("fault", "said", "known"),
    [
        (FAULT_FREE, "nrms 0.0495 exceeds 0.0296", "rounded angles"),
        ("logits_plus_constant", "nrms 0.0495 exceeds 0.0296", "rounded angles"),
        (FAULT_FREE, "nrms 0.2 exceeds 0.0296", ""),  # not the failure that is known
        ("stale_kv", "nrms 0.0495 exceeds 0.0296", ""),  # a fault of ours: found, whatever is known
    ],
)
def test_only_a_run_without_a_fault_of_ours_is_excused_by_a_waiver(fault: str, said: str, known: str) -> None:
    waiver = Waiver(
        "test_x.py::test_a[case-edge]",
        r"nrms 0\.0\d+ exceeds",
        "rounded angles",
        date.max,
        Path("cpu.toml"),
        weights="a" * 12,
    )
    held = SimpleNamespace(weights_sha256=lambda model: "a" * 64)
    run = SimpleNamespace(waivers=Register([waiver], date.min), references=held)
    item: Any = SimpleNamespace(
        nodeid=f"suites/conformance/test_x.py::test_a[case-fault={fault}-edge]",
        config=SimpleNamespace(stash={RUN: run}),
    )
    case = Case(CPU, "transformers", "llama-tiny", "bf16")
    assert plugin._known(item, case, fault, said) == known


def test_less_evidence_is_a_table_of_its_own_and_nobody_elses_rule() -> None:
    matrix = FaultMatrix(TIERED)
    # By hand: of stale_kv and sign_flip the suite finds the first, the best five both, tokens the first in bf16.
    assert matrix.tiers() == [("logits", 1, 2, 2, 2), ("top 5", 2, 2, 0, 2), ("tokens", 1, 2, 1, 2)]
    assert matrix.judges() == FaultMatrix(CELLS).judges()
    assert matrix.survivors() == ["sign_flip"], "a tier saves nobody"
    assert matrix.false_alarms() == FaultMatrix(CELLS).false_alarms()
    assert matrix.lanes("stale_kv", "tier tokens") == "D"
    assert matrix.checks[-2:] == ["tier top 5", "tier tokens"]
    text = page(matrix, "detection.svg")
    part = text[text.index("## What is found at each tier of evidence") : text.index("## Fault by fault")]
    assert "| logits | all properties | 1 of 2 | 2 of 2 |" in part
    assert f"| top 5 | {tiers.TIERS['tier top 5']} | 2 of 2 | 0 of 2 |" in part
    assert "| tokens | the tokens of a free run, re-scored by the oracle | 1 of 2 | 1 of 2 |" in part
    assert "tier top 5" not in text
    assert "tier tokens" not in text


def test_a_store_of_before_has_no_tiers() -> None:
    assert FaultMatrix(CELLS).tiers() == []
    assert "tier of evidence" not in page(FaultMatrix(CELLS), "detection.svg")


def referred() -> tuple[Any, Any]:
    """A pretended model whose logits depend on the last token, and its reference with a bf16 envelope."""
    oracle = TableOracle(table(5))
    bare = make("table", "f" * 64, oracle, [[1, 8], [2, 9]], 12)
    logits = forced_logits(oracle, bare)
    return oracle, with_envelope(
        bare, "bf16", {str(n): scores_of(logits + noise(logits.shape, n), bare.forced) for n in (1, 2)}
    )


@pytest.mark.parametrize(
    ("change", "outcomes"),
    [
        (lambda logits: logits, ["pass", "pass"]),
        (lambda logits: logits + 7.0, ["pass", "pass"]),  # logsumexp takes it off
        (lambda logits: logits * 1.01, ["alarm", "pass"]),
        (lambda logits: np.where(logits == logits[3, 1].min(), np.nan, logits), ["alarm", "pass"]),
        (lambda logits: np.roll(logits, 1, axis=-1), ["alarm", "alarm"]),
    ],
    ids=["honest", "a constant", "1 % too large", "nan in the tail", "neighbours"],
)
def test_tiers_are_our_own_judges_shown_less(change: Any, outcomes: list[str]) -> None:
    oracle, reference = referred()
    known = forced_logits(oracle, reference)
    tokens, logits = np.empty((2, 12), dtype=np.int64), np.empty_like(known)
    for row, prompt in enumerate(reference.prompts):
        last = prompt[-1]
        for step in range(12):
            logits[step, row] = oracle.logits([last])[0]
            logits[step, row] = change(logits)[step, row]
            last = tokens[row, step] = np.nanargmax(logits[step, row])
    own = scores_of(logits, tokens)
    asked: list[Any] = []

    def rescore(ids: Any) -> Any:
        asked.append(tuple(ids))
        return oracle.logits(ids)

    said = list(tiers.alarms(tokens, own, reference, "fp32", rescore, known))
    assert [(check, outcome) for check, outcome, _ in said] == list(zip(tiers.TIERS, outcomes, strict=True))
    assert all(bool(why) == (outcome == "alarm") for _, outcome, why in said)
    assert len(asked) == len(set(asked)), "the oracle is asked once"
    assert bool(asked) == (tokens != reference.forced).any(), "and not at all of the reference's own text"
    unknown = list(tiers.alarms(tokens, own, reference, "fp16", rescore, known))
    assert [outcome for _, outcome, _ in unknown] == ["not judged"] * 2


def test_the_report_says_what_its_verdicts_are_worth(tmp_path: Path) -> None:
    store = Store(tmp_path / "cells.jsonl")
    for one in CELLS:
        store.add(one)
    out = tmp_path / "page.html"
    # By hand: stale_kv is found, sign_flip is not; the fault-free run and the equivalent one both alarm.
    assert FaultMatrix(CELLS).judges()[:2] == [("this suite", 1, 2, 2, 2), ("exact text", 1, 2, 0, 0)]
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
    draw(FaultMatrix(CELLS), tmp_path / "map.svg")
    assert (tmp_path / "map.svg").read_text().startswith("<svg")


def test_a_store_goes_on_after_a_kill(tmp_path: Path) -> None:
    store = Store(tmp_path / "cells.jsonl")
    for one in CELLS:
        store.add(one)
    store.add(cell(FAULT_FREE, "test_b", "pass"))
    with store.path.open("a") as stream:
        stream.write('{"engine": "tr')
    again = Store(store.path)
    assert len(again.cells) == len(CELLS)
    assert FaultMatrix(again.cells.values()).false_alarms()[0].fault == "logits_plus_constant"
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
    done = run(tmp_path, FAULT_FREE, "causal_leak", "eos_late", "remembered", "logits_plus_constant", "sign_flip")
    assert done.returncode == 0, done.stdout + done.stderr
    matrix = FaultMatrix(Store(tmp_path / "cells.jsonl").cells.values())
    assert matrix.lanes("causal_leak", "test_later_tokens_never_alter_earlier_logits") == "F"
    assert matrix.lanes("eos_late", "test_a_row_ends_at_its_end_of_text") == "F"
    assert matrix.lanes("eos_late", "test_logits_match_the_oracle") == "."
    assert matrix.lanes("remembered", "test_a_request_leaves_nothing_behind") == "F"
    assert matrix.lanes("sign_flip", "test_logits_match_the_oracle") == "F"
    assert len(matrix.fault_free()) > 60
    assert not [cell for cell in matrix.cells if "Traceback" in cell.why or str(Path(__file__).parents[2]) in cell.why]
    before = len(matrix.cells)
    again = run(tmp_path, FAULT_FREE, "causal_leak", more=("--out", str(tmp_path)))
    assert again.returncode == 0, again.stdout + again.stderr
    assert len(FaultMatrix(Store(tmp_path / "cells.jsonl").cells.values()).cells) == before
    assert (tmp_path / "detection.md").is_file()


def test_a_fault_that_cannot_be_put_in_is_tried_again_by_the_next_test() -> None:
    """Else the next test would judge a run without it, and keep that as the fault's."""

    def refused(entry: str, params: dict[str, Any]) -> Any:
        raise BadInput(f"no place for {entry}")

    run = SimpleNamespace(groups=SimpleNamespace(generator=lambda case: SimpleNamespace(with_fault=refused)))
    item: Any = SimpleNamespace(config=SimpleNamespace(stash={RUN: run, plugin.STORE: SimpleNamespace()}))
    stage, case = plugin.Stage(item.config), Case("cpu", "transformers", "llama-tiny", "fp32")
    assert stage.enter(item, case, FAULT_FREE)
    for _ in range(2):
        with pytest.raises(BadInput, match="no place"):
            stage.enter(item, case, "sign_flip")
    assert stage.enter(item, case, FAULT_FREE)


def judged_with(names: str, store: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The suite by the matrix's plugin, with injectors that break in its catalogue."""
    command = [sys.executable, "-m", "pytest", str(ROOT / "suites" / "conformance" / "test_greedy.py"), "-q"]
    command += ["-p", "tests.faults.broken_injectors", "-p", "genqual.faults.matrix.plugin", "-p", "no:cacheprovider"]
    command += ["-m", f"conformance and {CPU}", "--engine", "transformers", "--model=llama-tiny", "--dtype", "fp32"]
    command += ["--ranks", "1", "--faults", names, "--faults-store", str(store), "--no-upload"]
    command += [f"--state-dir={store}.state", *words]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}  # ranks import the injectors, too
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=240, check=False)


def test_an_injector_that_breaks_is_an_error_of_the_matrix_and_finds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "cells.jsonl"
    names = ["broken_undo", "broken_at_once", "broken_later", "nan_logit"]
    done = judged_with(",".join(names), store, "-k", "test_every_logit_is_finite")
    assert done.returncode == 1, done.stdout + done.stderr
    for one in broken_injectors.BROKEN:
        monkeypatch.setitem(CATALOGUE, one.name, one)
    cells = list(Store(store).cells.values())
    outcomes = {name: {cell.outcome for cell in cells if cell.fault == name} for name in names}
    assert outcomes["broken_at_once"] == {"error"}
    assert outcomes["broken_later"] == {"error"}, "neither a property nor a rule of others found it"
    assert outcomes["broken_undo"] == {"pass", "error"}
    assert [cell.check for cell in cells if cell.fault == "broken_undo" and cell.outcome == "error"] == [plugin.UNDOING]
    assert "alarm" in outcomes["nan_logit"], "the group lives on, and what is judged there is judged"
    assert all("TypeError" in cell.why for cell in cells if cell.outcome == "error")
    matrix = FaultMatrix(cells)
    assert "broken_later" not in matrix.faults
    assert "### Errors" in page(matrix, "detection.svg")
    told = CliRunner().invoke(faults, ["matrix", "--show", "--store", str(store)])
    assert told.exit_code == 1
    assert "broken_at_once: 1 checks, first" in told.output
    assert "TypeError: takes no such argument" in told.output
    known = Store(store)
    again = {cell.outcome: known.judged(cell.key, cell.hardware, cell.subject) for cell in cells}
    assert not again.pop("error"), "it may have been mended"
    assert all(again.values())


@pytest.mark.parametrize(
    ("name", "outcome", "verdict", "said"),
    [
        ("stale_kv", "failed", "fail", "alarm"),
        ("stale_kv", "failed", None, "error"),  # EngineFailed, GroupLost, a TypeError of the test
        ("rank_exit", "failed", None, "alarm"),  # meant to end the group
        (FAULT_FREE, "failed", None, "error"),
        (FAULT_FREE, "failed", "fail", "alarm"),
        ("stale_kv", "passed", "pass", "pass"),
        ("stale_kv", "skipped", "not_applicable", "not applicable"),
        ("stale_kv", "skipped", "no_reference", "not judged"),
    ],
)
def test_only_a_failed_judgement_is_a_find(name: str, outcome: str, verdict: str | None, said: str) -> None:
    report: Any = SimpleNamespace(when="call", outcome=outcome)
    assert plugin.outcome_of(report, verdict, name, broken=False) == said
