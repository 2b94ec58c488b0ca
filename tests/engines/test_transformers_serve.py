"""The real `transformers serve`, judged and timed through the real suite: honest, and broken on purpose."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import openai
import pytest

from genqual.models.registry import resolve
from genqual.models.token_text import export
from genqual.ranks.launchers import free_port
from tests.here import CPU
from tests.plugin.suite import suite

pytestmark = pytest.mark.heavy
START_S = 120.0


@dataclass(frozen=True)
class Served:
    """A server that is up: its base URL and the name of its model."""

    url: str
    model: str

    def options(self, dtype: str = "fp32") -> tuple[str, ...]:
        return (
            *("-m", CPU, "--engine", "server", "--model", "llama-tiny", "--dtype", dtype, "--no-upload"),
            *("--endpoint", self.url, f"--served-model={self.model}"),
        )


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """`transformers serve` on llama-tiny in fp32, started once."""
    folder = tmp_path_factory.mktemp("served")
    model, port = export(resolve("llama-tiny"), folder / "model"), free_port()
    command = [
        *(sys.executable, "-m", "transformers.cli.transformers", "serve", str(model), "--device", "cpu"),
        *("--dtype", "float32", "--host", "127.0.0.1", "--port", str(port)),
    ]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        try:
            url = f"http://127.0.0.1:{port}/v1"
            wait(url, server, folder / "log")
            yield Served(url, str(model))
        finally:
            server.terminate()
            server.wait(30)


def wait(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    """Until the server answers anything. Fails with its log when it ends, or does not come up."""
    client = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=2)
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()
        try:
            client.models.list()
        except openai.APIConnectionError:
            time.sleep(0.3)  # it is still importing torch
        except openai.APIStatusError:
            return
        else:
            return
    pytest.fail(f"no answer after {START_S} s: {log.read_text()}")


def test_an_honest_server_is_judged_by_its_tokens_and_timed(served: Served, tmp_path: Path) -> None:
    run = suite(
        tmp_path, *served.options(), "--benchmark", "-rs", "--batch-sizes", "1,4", "--input-lengths", "16",
        "--new-tokens", "8", f"--junitxml={tmp_path}/junit.xml",
    )  # fmt: skip
    said = run.stdout
    assert run.returncode == 0, said + run.stderr
    assert "gives tokens only (evidence tier: tokens)" in said
    bodies = [json.loads(path.read_text()) for path in (tmp_path / "spool").glob("*.json")]
    judged = [body for body in bodies if body["kind"] == "judgement"]
    assert {body["judgement"]["tier"] for body in judged} <= {"tokens", "text"}  # text: what it refuses
    assert {body["judgement"]["property"] for body in judged} >= {
        "free_run_follows_the_oracle",
        "timed_text_follows_the_oracle",
    }
    measured = [body for body in bodies if body["kind"] == "measurement"]
    assert {body["workload"]["batch"] for body in measured} == {1, 4}
    for body in measured:
        metrics = {metric["name"]: metric["value"] for metric in body["metrics"]}
        assert 0 < metrics["tpot"] < metrics["ttft"] < metrics["e2e"]
        for unseen in ("load_s", "peak_memory", "mbu", "mfu"):
            assert metrics[unseen] is None
        assert body["engine"]["inspection"]["prompts_as"] == "text"
        assert served.url not in json.dumps(body["engine"])
    # It refuses `logprobs`, so it is judged by its tokens.
    assert "NOT APPLICABLE: server gives tokens only: no log-probabilities came with them" in said
    assert "test_logits_match_the_oracle" not in {line for line in said.splitlines() if "PASSED" in line}


@pytest.mark.parametrize("fault", ["rows_swapped", "prompt_cut"])
def test_a_fault_of_the_server_fails(fault: str, served: Served, tmp_path: Path) -> None:
    run = suite(
        tmp_path, *served.options(), "-k", "free_run", "-p", "tests.faults.inject",
        env={"GENQUAL_TEST_FAULT": json.dumps({"name": fault})},
    )  # fmt: skip
    assert run.returncode == 1, run.stdout + run.stderr
    assert re.search(r"FAILED .*test_free_run_follows_the_oracle", run.stdout)
    assert "Traceback" not in run.stdout


def test_a_name_that_is_not_served_is_told(served: Served, tmp_path: Path) -> None:
    wrong = [word.replace(served.model, "somebody-else") for word in served.options()]
    run = suite(tmp_path, *wrong, "-k", "free_run")
    assert run.returncode == 1, run.stdout
    assert "somebody-else" in run.stdout
    assert "Server is pinned to" in run.stdout
    assert "Traceback" not in run.stdout
