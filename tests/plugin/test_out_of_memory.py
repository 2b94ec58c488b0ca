"""Out of memory under a limit of the kernel: the row says oom, the next batch runs, the same ranks answer."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from tests.here import CPU
from tests.plugin.suite import ROOT, suite

ENGINE = "transformers:host_memory=1500MB"
TOO_MANY = 16384  # rows of 32 tokens: 200 KB each while they are read


def test_a_batch_that_does_not_fit_is_an_outcome(tmp_path: Path) -> None:
    run = suite(
        tmp_path, "-m", CPU, "--benchmark", "--engine", ENGINE, "--model", "llama-tiny", "--dtype", "fp32",
        "--batch-sizes", f"2,{TOO_MANY},3", "--input-lengths", "32", "--new-tokens", "3", "-v",
        *(str(ROOT / "suites" / file) for file in ("performance/test_latency.py", "conformance/test_greedy.py")),
        "-k", "test_time_per_output_token or test_logits_match or test_free_run",
    )  # fmt: skip
    said = run.stdout
    assert run.returncode == 0, said + run.stderr
    assert "OOM" in said
    ran = [line for line in said.splitlines() if "::test_" in line]
    places = [next(i for i, line in enumerate(ran) if word in line) for word in (f"b{TOO_MANY}", "b3-", "test_logits")]
    assert places == sorted(places), said  # measured first, judged after
    with sqlite3.connect(tmp_path / "results.db") as database:
        bodies = [json.loads(body) for (body,) in database.execute("select body from records")]
    measured = {body["workload"]["batch"]: body["outcome"] for body in bodies if body["kind"] == "measurement"}
    assert {batch: outcome["status"] for batch, outcome in measured.items()} == {2: "ok", TOO_MANY: "oom", 3: "ok"}
    assert "ran out of memory" in measured[TOO_MANY]["message"]
    judged = [body["outcome"]["status"] for body in bodies if body["kind"] == "judgement"]
    assert judged == ["ok", "ok"]
    assert len(list((tmp_path / "logs").glob(f"*/{CPU}-transformers*"))) == 1  # one group served them all


@pytest.mark.heavy  # a minute of batches
def test_the_largest_batch_is_found_and_recorded(tmp_path: Path) -> None:
    profile = tmp_path / "room.toml"
    profile.write_text(
        "[performance]\ninput_lengths = [64]\nnew_tokens = 2\nlargest_batch = 65536\n"
        f"[[performance.cases]]\nengine = '{ENGINE}'\nmodels = ['llama-tiny']\ndtypes = ['fp32']\n"
    )
    run = suite(tmp_path, "-m", CPU, "--benchmark", f"--profile={profile}", "-k", "test_largest_batch")
    assert run.returncode in (0, 1), run.stdout + run.stderr  # 1: nothing was judged, which is true
    assert "1 passed" in run.stdout
    with sqlite3.connect(tmp_path / "results.db") as database:
        (body,) = [json.loads(body) for (body,) in database.execute("select body from records")]
    (metric,) = body["metrics"]
    assert (metric["name"], metric["unit"], metric["better"]) == ("largest_batch", "rows", "higher")
    tried = dict(json.loads(body["labels"]["tried"]))
    assert 1 < metric["value"] < 65536
    assert tried[int(metric["value"])] is True
    assert tried[int(metric["value"]) + 1] is False
    assert f"largest batch: {int(metric['value'])} rows of 64 + 2 tokens" in run.stdout
