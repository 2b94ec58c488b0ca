"""The real suite on a real server process: what it is timed with, what is told of it, and what a verdict names."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engines.served_model import seen, served
from tests.here import CPU
from tests.plugin.suite import suite


def options(url: str) -> tuple[str, ...]:
    return (
        *("-m", CPU, "--engine", "server", "--model", "llama-tiny", "--dtype", "fp32", "--no-upload", "-rs"),
        *("--endpoint", url),
    )


def records(state: Path, kind: str) -> Iterator[dict[str, Any]]:
    for path in (state / "spool").glob("*.json"):
        body = json.loads(path.read_text())
        if body["kind"] == kind:
            yield body


def value(body: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in body["metrics"] if one["name"] == name)
    return found


TIMED = ("--benchmark", "-k", "first_token or free_run", "--batch-sizes", "2", "--new-tokens", "4")


def test_every_timed_request_has_a_prompt_of_its_own_and_hits_have_a_name(tmp_path: Path) -> None:
    """A prefix cache answers from blocks of one token, so that nothing that is shared can hide."""
    with served(block=1, gap_s=0.005) as url:
        run = suite(tmp_path, *options(url), *TIMED, "--input-lengths", "8,24", "--prompt-seed", "a")
        assert run.returncode == 0, run.stdout + run.stderr
        asked = [body["prompt"] for body in seen(url) if len(body["prompt"]) in (8, 24) and body["max_tokens"] == 4]
        first = [json.dumps(prompt) for prompt in asked]
        measured = list(records(tmp_path, "measurement"))
        again = suite(tmp_path / "again", *options(url), *TIMED, "--input-lengths", "8", "--prompt-seed", "a")
    fresh = [body for body in measured if "prompts" not in body["workload"]]
    hits = [body for body in measured if body["workload"].get("prompts") == "repeated"]
    assert len(fresh) == len(hits) == 2
    assert {body["labels"]["prompt_seed"] for body in measured} == {"a"}

    once = [json.loads(text) for text in set(first) if first.count(text) == 1]
    repeated = [json.loads(text) for text in set(first) if first.count(text) > 1]
    assert len(repeated) == sum(body["workload"]["batch"] for body in hits)
    every = [*once, *repeated]
    for index, one in enumerate(every):
        shared = max(len(os.path.commonprefix([one, other])) for other in every[:index] + every[index + 1 :])  # noqa: RUF071
        assert shared == 0, "no request begins as another did, of whatever workload"

    for body in fresh:
        assert body["protocol"]["prompts_sent"] == "each once"
        assert value(body, "ttft")["value"] is not None
        told = json.loads(body["labels"]["cached_tokens"])
        assert {count for row in told for count in row} <= {0, 1}
    for body in hits:
        assert "prompts_sent" not in body["protocol"]
        told = json.loads(body["labels"]["cached_tokens"])
        assert {count for row in told for count in row} == {body["workload"]["input_length"] - 1}
        assert value(body, "ttft")["value"] is not None

    # The same seed on the same server: its cache knows every prompt, says so, and nothing is timed.
    assert again.returncode == 0, again.stdout + again.stderr
    for body in records(tmp_path / "again", "measurement"):
        if "prompts" not in body["workload"]:
            assert value(body, "ttft")["value"] is None
            assert "prefix cache answered" in value(body, "ttft")["note"]
            assert "--prompt-seed" in value(body, "ttft")["note"]


def test_tokens_in_pieces_are_timed_by_their_number(tmp_path: Path) -> None:
    with served(pieces=[16, 8, 4, 4], gap_s=0.05) as url:
        run = suite(
            tmp_path, *options(url), "--benchmark", "-k", "inter_token_latency or per_output_token or free_run",
            "--batch-sizes", "1", "--input-lengths", "8", "--new-tokens", "32",
        )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    (body,) = records(tmp_path, "measurement")
    tpot = value(body, "tpot")
    assert tpot["value"] == pytest.approx(0.15 / 16, rel=0.4), "not 0.15 / 31"
    assert value(body, "itl_p50")["value"] > 0.003
    assert "tokens arrived in pieces of up to" in tpot["note"]
    assert all(count >= 16 for count in json.loads(body["labels"]["first_piece"]))


@pytest.fixture(scope="module")
def unlisted() -> Iterator[str]:
    """A server with a penalty of its own, which takes every field, and whose list of models cannot be had."""
    with served(penalty=3.0, no_list=True) as url:
        yield url


@pytest.fixture(scope="module")
def told(unlisted: str, tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """A run on `unlisted` that is told the model's name."""
    words = ("--served-model=llama-tiny", "-k", "free_run or top_probabilities")
    return suite(tmp_path_factory.mktemp("told"), *options(unlisted), *words)


def test_a_verdict_names_what_the_server_refused(tmp_path: Path, told: subprocess.CompletedProcess[str]) -> None:
    with served(penalty=3.0, refuse=["repetition_penalty", "min_p"]) as url:
        run = suite(tmp_path, *options(url), "-k", "free_run")
    assert run.returncode == 1, run.stdout + run.stderr
    assert "The server refused min_p, repetition_penalty in the request" in run.stdout
    assert "generation_config.json" in run.stdout
    (body,) = records(tmp_path, "judgement")
    assert "repetition_penalty" in body["judgement"]["explanation"]
    assert body["engine"]["inspection"]["refused"] == ["min_p", "repetition_penalty"]
    assert told.returncode == 0, "asked for in full, greedy is greedy" + told.stdout


def test_a_verdict_names_what_the_server_took_and_ignored(tmp_path: Path) -> None:
    """As Ollama does with a penalty: no refusal tells that its own default has changed the text."""
    with served(penalty=3.0, ignore=["repetition_penalty"]) as url:
        run = suite(tmp_path, *options(url), "-k", "free_run")
    assert run.returncode == 1, run.stdout + run.stderr
    assert "yet neither 0.01 nor 2.0 changes its text" in " ".join(run.stdout.split())
    (body,) = records(tmp_path, "judgement")
    assert "The server took repetition_penalty, repeat_penalty" in body["judgement"]["explanation"]


PROFILE = """
[performance]
batch_sizes = [1]
input_lengths = [8]
new_tokens = 4
repetitions = 1
[performance.limits]
e2e_ms = 1e6
peak_memory_mib = 100
load_s_ms = 1e6
[[performance.cases]]
engine = "server"
models = ["llama-tiny"]
dtypes = ["fp32"]
"""


def test_a_limit_on_what_a_client_never_sees_is_neither_met_nor_missed(tmp_path: Path) -> None:
    (tmp_path / "promises.toml").write_text(PROFILE)
    with served() as url:
        run = suite(tmp_path, *options(url), "--benchmark", f"--profile={tmp_path}/promises.toml", "-k", "test_a_limit")
    assert run.returncode == 0, run.stdout + run.stderr
    assert re.search(r"1 passed, .*2 not applicable", run.stdout), run.stdout
    said = " ".join(run.stdout.split())
    assert "MEETS e2e_ms" in said
    assert "peak_memory_mib = 100: a client does not see the server's memory" in said


def test_a_list_of_models_that_cannot_be_had_names_the_option(
    tmp_path: Path, unlisted: str, told: subprocess.CompletedProcess[str]
) -> None:
    run = suite(tmp_path, *options(unlisted), "-k", "free_run")
    assert run.returncode == 1
    assert re.search(r"list of models cannot be had .*--served-model", run.stdout.replace("\n", " ")), run.stdout
    assert told.returncode == 0, told.stdout + told.stderr


def test_a_chat_alone_is_judged_and_timed(tmp_path: Path) -> None:
    with served(chat_only=True, reasoning="reasoning_content", gap_s=0.005, top=False) as url:
        run = suite(
            tmp_path, *options(url), "--benchmark", "-k", "free_run or time_to_first_token", "--batch-sizes", "2",
            "--input-lengths", "8", "--new-tokens", "4",
        )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    assert {body["engine"]["inspection"]["endpoint_of"] for body in records(tmp_path, "judgement")} == {"chat"}
    assert [value(body, "ttft")["value"] > 0 for body in records(tmp_path, "measurement")] == [True]


WAYS = {
    "again": "test_a_repeated_request_gives_the_same_bits",
    "prefix": "test_cache_equals_no_cache",
    "beside": "test_a_row_does_not_see_its_neighbours",
    "": "test_a_request_leaves_nothing_behind",
}


@pytest.mark.parametrize("top", [True, False], ids=["top", "tokens"])
def test_repeat_batching_and_prefixes_are_judged_by_what_a_server_shows(top: bool, tmp_path: Path) -> None:
    with served(block=4, top=top) as url:
        run = suite(tmp_path, *options(url), "-k", " or ".join(WAYS.values()))
    assert run.returncode == 0, run.stdout + run.stderr
    tiers = {body["judgement"]["property"]: body["judgement"]["tier"] for body in records(tmp_path, "judgement")}
    assert tiers == {name.removeprefix("test_"): "top" if top else "tokens" for name in WAYS.values()}


@pytest.mark.parametrize("wrong", ["again", "prefix", "beside"])
def test_a_server_that_is_right_only_the_first_time_fails(wrong: str, tmp_path: Path) -> None:
    with served(block=4, wrong=wrong) as url:
        run = suite(tmp_path, *options(url), "-k", WAYS[wrong])
    assert run.returncode == 1, run.stdout + run.stderr
    judged = [body["judgement"] for body in records(tmp_path, "judgement")]
    assert {one["verdict"] for one in judged} == {"fail"}
    words = {"again": "Asked again: ", "prefix": "Prompts that begin with them: ", "beside": "Beside the others: "}
    assert all(one["explanation"].startswith(words[wrong]) for one in judged), "right the first time"
    assert "Traceback" not in run.stdout
    assert "rule that out first" not in " ".join(run.stdout.split()), "a fault of the engine, and no other suspect"
