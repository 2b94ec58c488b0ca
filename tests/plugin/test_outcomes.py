"""What a run leaves behind: outcomes under their own names, JUnit, pytest-benchmark's files, records, exit codes."""

from __future__ import annotations

import json
import shutil
import sqlite3
import statistics
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from genqual.models import safetensor, weights
from genqual.models.registry import resolve
from tests.here import CPU
from tests.plugin.suite import EXAMPLE, ROOT, numpy_engine, suite

SMALL = ("--engine", "transformers", "--model", "llama-tiny", "--dtype", "fp32", "--batch-sizes", "2")
ONCE = (*numpy_engine(), "--batch-sizes", "2")
"""The same of an engine without torch, for what is no engine's."""
SHORT = ("--input-lengths", "16", "--new-tokens", "6")


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state directory of one small run of everything but a second group, with its output beside it."""
    state = tmp_path_factory.mktemp("ran")
    run = suite(
        state, "-m", CPU, "--benchmark", *SMALL, *SHORT, f"--junitxml={state}/junit.xml",
        f"--benchmark-json={state}/bench.json", f"--benchmark-storage=file://{state}/saved", "--benchmark-save=mine",
        "--compare-to=published", f"--report={state}/run.html", "-k", "not test_a_fresh_process",
    )  # fmt: skip
    (state / "out.txt").write_text(run.stdout + run.stderr)
    assert run.returncode == 0, run.stdout + run.stderr
    return state


def bodies(state: Path) -> list[dict[str, Any]]:
    with sqlite3.connect(state / "results.db") as database:
        return [json.loads(body) for (body,) in database.execute("select body from records")]


def test_an_unjudged_metric_is_shown_and_is_no_pass(ran: Path) -> None:
    said = (ran / "out.txt").read_text()
    assert "5 no baseline" in said
    assert "2 recorded" in said
    cases = {case.get("name", ""): case for case in ET.parse(ran / "junit.xml").iter("testcase")}
    metrics = [case for name, case in cases.items() if name.startswith(("test_time_", "test_load", "test_peak"))]
    assert len(metrics) == 4
    for case in metrics:
        skipped = case.find("skipped")
        assert skipped is not None
        wanted = "RECORDED" if "inter_token" in case.get("name", "") else "NO BASELINE"
        assert wanted in str(skipped.get("message"))
    judged = next(case for name, case in cases.items() if name.startswith("test_logits_match_the_oracle"))
    assert judged.find("skipped") is None


def test_junit_and_the_terminal_name_the_command_that_makes_the_baseline(ran: Path) -> None:
    found = {
        case.get("name", "").partition("[")[0]: {
            one.get("name"): str(one.get("value")) for one in case.iter("property")
        }
        for case in ET.parse(ran / "junit.xml").iter("testcase")
    }
    of_tpot = found["test_time_per_output_token"]
    assert of_tpot["genqual_metric"] == "tpot"
    assert of_tpot["genqual_next"].startswith("genqual rebase --quick --device ")
    assert f"NO BASELINE: {of_tpot['genqual_next']}" in (ran / "out.txt").read_text()
    assert "genqual_next" not in found["test_logits_match_the_oracle"]


def test_a_run_ends_with_its_comparison_and_its_page(ran: Path) -> None:
    said = (ran / "out.txt").read_text()
    compared = said[said.index("genqual: compared") :]
    assert "A: published: a100-80gb" in compared
    assert "No row stands on both sides." in compared
    assert f"report: {ran}/run.html" in said
    page = (ran / "run.html").read_text(encoding="utf-8")
    assert "llama-tiny" in page
    assert "bloomz-176b" in page


def test_every_judgement_and_measurement_is_a_record(ran: Path) -> None:
    found = bodies(ran)
    kinds = [body["kind"] for body in found]
    assert kinds.count("judgement") == 40 + 2  # 40 of conformance, two of the timed path
    assert kinds.count("measurement") == 1
    assert len(found) == len(list((ran / "spool").glob("*.json")))
    assert {body["provenance"]["kind"] for body in found} == {"measured"}
    assert all(body["model"]["weights_sha256"] for body in found)


def test_pytest_benchmark_shows_the_recorded_samples(ran: Path) -> None:
    (measured,) = [body for body in bodies(ran) if body["kind"] == "measurement"]
    metrics = {metric["name"]: metric for metric in measured["metrics"]}
    shown = {b["name"].partition("[")[0]: b for b in json.loads((ran / "bench.json").read_text())["benchmarks"]}
    for test, metric in (
        ("test_time_to_first_token", "ttft"),
        ("test_time_per_output_token", "tpot"),
        ("test_end_to_end_latency", "e2e"),
        ("test_inter_token_latency", "itl_p50"),
    ):
        assert shown[test]["stats"]["data"] == metrics[metric]["samples"]
        assert shown[test]["stats"]["median"] == pytest.approx(statistics.median(metrics[metric]["samples"]))
    ttft, tpot, e2e = (metrics[name]["samples"] for name in ("ttft", "tpot", "e2e"))
    assert [a + 5 * b for a, b in zip(ttft, tpot, strict=True)] == pytest.approx(e2e)
    assert len(metrics["itl_p50"]["samples"]) == 5 * 5


def test_pytest_benchmark_compare_reads_the_saved_run(ran: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "pytest_benchmark", f"--storage=file://{ran}/saved", "compare"],
        capture_output=True, text=True, check=False, cwd=ran,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "test_time_per_output_token" in run.stdout


def test_gate_mode_fails_what_was_not_judged(tmp_path: Path) -> None:
    run = suite(
        tmp_path, "-m", CPU, "--benchmark", "--gate", *ONCE, *SHORT, "--no-upload", "-k", "test_time_to_first_token"
    )
    assert run.returncode == 1, run.stdout
    assert "NO BASELINE" in run.stdout
    assert "1 failed" in run.stdout


def test_an_engine_that_cannot_run_here_is_unsupported_and_no_failure(tmp_path: Path) -> None:
    done = suite(
        tmp_path,
        *("-m", CPU, "--benchmark", "--engine", "transformers-compiled", "--model", "llama-tiny", "--dtype", "bf16"),
        *("--batch-sizes", "2", *SHORT, "-k", "time_to_first_token or peak_memory or logits_match"),
        *("-rs", "--allow-absent"),
        env={"CXX": "no-such-compiler"},
    )
    assert done.returncode == 0, done.stdout
    assert (
        f"unsupported: {CPU}-transformers-compiled-llama-tiny-bf16: torch.compile needs a C++ compiler" in done.stdout
    )
    assert "passed" not in done.stdout.splitlines()[-1]
    records = [json.loads(line.read_text()) for line in (tmp_path / "spool").rglob("*.json")]
    assert records
    assert {record["outcome"]["status"] for record in records} == {"unsupported"}


def of_its_own(folder: Path) -> Path:
    """llama-tiny in `folder`, with one weight of its head changed: a fine-tune, of which nobody has a reference."""
    shutil.copytree(weights.directory(resolve("llama-tiny")), folder)
    state = {name: values.copy() for name, values in weights.read(resolve("llama-tiny")).items()}
    state["lm_head.weight"][3, 5] = 8.0
    safetensor.write_bf16(folder / "model.safetensors", state)
    return folder


def test_a_reference_of_other_weights_judges_nothing_whatever_its_name(tmp_path: Path) -> None:
    references, only = tmp_path / "references", ("--no-upload", "-rs")
    shutil.copytree(ROOT / "baselines" / "references" / "llama-30m", references / "llama-tiny")
    run = suite(tmp_path, "-m", CPU, *ONCE, *only, "-k", "test_top_prob", f"--references={references}")
    assert run.returncode == 0, run.stdout
    assert "1 passed" in run.stdout, "the committed reference of these weights was not found"
    mine = of_its_own(tmp_path / "llama-tiny")
    run = suite(
        tmp_path, "-m", CPU, *numpy_engine()[:4], f"--model={mine}", "--dtype", "fp32", *only,
        "-k", "test_free_run", f"--references={references}", "--gate",
    )  # fmt: skip
    assert run.returncode == 1, run.stdout
    said = " ".join(run.stdout.split())
    assert f"{references}/llama-tiny is of other weights (98e06c0e" in said
    assert "baselines/references/llama-tiny is of other weights (09dc2558" in said
    assert "Traceback" not in run.stdout


def test_a_model_without_a_reference_is_judged_by_its_properties(tmp_path: Path) -> None:
    model = of_its_own(tmp_path / "somebodys-model")
    run = suite(
        tmp_path, "-m", CPU, "--engine", "transformers", f"--model={model}", "--dtype", "fp32", "--no-upload",
        "-k", "oracle or cache_equals or repeated_request",
    )  # fmt: skip
    assert run.returncode == 0, run.stdout
    assert "2 passed" in run.stdout
    assert "2 no reference" in run.stdout
    assert "genqual reference" in suite(
        tmp_path, "-m", CPU, *numpy_engine()[:4], f"--model={model}", "--dtype", "fp32", "--no-upload",
        "-k", "test_top_probabilities", "--gate",
    ).stdout  # fmt: skip


def test_a_path_that_cannot_be_written_loses_no_record(tmp_path: Path) -> None:
    run = suite(
        Path("/proc/genqual"), "-m", CPU, *ONCE, "-k", "test_top_probabilities",
        env={"TMPDIR": str(tmp_path), "GENQUAL_UPLOAD": "sqlite:////proc/genqual/results.db"},
    )  # fmt: skip
    said = run.stdout
    assert run.returncode == 0, said
    assert "1 passed" in said
    assert "cannot be written" in said
    assert "FAILED" in said  # the upload, which changes no verdict
    assert "Traceback" not in said
    assert len(list(tmp_path.glob("genqual-spool-*/*.json"))) == 1


def test_a_required_upload_that_fails_ends_the_run_non_zero(tmp_path: Path) -> None:
    run = suite(
        tmp_path, "-m", CPU, *ONCE, "-k", "test_top_probabilities", "--require-upload",
        env={"GENQUAL_UPLOAD": "sqlite:////proc/genqual/results.db"},
    )  # fmt: skip
    assert run.returncode == 1, run.stdout
    assert "1 passed" in run.stdout


def test_what_a_worker_warns_of_is_said_by_the_controller(tmp_path: Path) -> None:
    """The spool's other place and an expired waiver are known to the worker alone."""
    waived = f"test_greedy.py::test_every_logit_is_finite[{CPU}-external-llama-tiny-fp32]"
    (tmp_path / f"{CPU}.toml").write_text(
        f'[[waiver]]\ntest = "{waived}"\nsays = "finite"\nissue = "tracker 12"\nexpires = 2001-01-01\n'
    )
    run = suite(
        Path("/proc/genqual"), "-m", CPU, *ONCE, "-k", "test_top_probabilities", "-n", "2", "--no-upload",
        f"--waivers={tmp_path}", env={"TMPDIR": str(tmp_path)},
    )  # fmt: skip
    said = run.stdout
    assert "1 passed" in said, said + run.stderr
    assert said.count("the spool /proc/genqual/spool cannot be written") == 1
    assert said.count("has expired") == 1
    assert run.returncode == 1, said


def test_xdist_keeps_a_case_on_one_worker(tmp_path: Path) -> None:
    run = suite(
        tmp_path, "-m", CPU, "--engine", "external", "--engine-command", EXAMPLE, "--model", "llama-tiny,llama-odd",
        "--dtype", "fp32", "-n", "2", "-v", "-k", "oracle or bits",
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    assert "8 passed, 8 not applicable" in run.stdout
    workers: dict[str, set[str]] = {}
    for line in run.stdout.splitlines():
        if line.startswith("[gw") and "PASSED" in line:
            model = "odd" if "llama-odd" in line else "tiny"
            workers.setdefault(model, set()).add(line[1:4])
    assert [len(names) for names in workers.values()] == [1, 1]
    assert len({body["run"] for body in bodies(tmp_path)}) == 1
