"""The records of a run do not depend on the order of its tests, but for time."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.here import CPU
from tests.plugin.suite import suite

TEXT = "suites/conformance/test_text.py::test_texts_of_46_languages_round_trip"
FEW = "suites/conformance/test_repeat.py::test_inputs_stay_as_they_were_given"
WHOLE = "suites/conformance/test_greedy.py::test_a_chosen_token_is_the_argmax_of_its_own_logits"
STOPS = "suites/conformance/test_stopping.py::test_a_least_length_is_kept"
TPOT = "suites/performance/test_latency.py::test_time_per_output_token"
TTFT = "suites/performance/test_latency.py::test_time_to_first_token"


def records(state: Path, *tests: str) -> dict[str, dict[str, Any]]:
    """What `tests`, run in this order, left behind, by what it is of, without what is of the moment."""
    run = suite(
        state,
        *tests,
        *("-m", CPU, "--engine", "transformers:graphs=static", "--model", "llama-tiny", "--dtype", "fp32"),
        *("--benchmark", "--batch-sizes", "1", "--input-lengths", "8", "--new-tokens", "4", "--allow-absent"),
        timeout=500,  # a timed item waits for cores that another run holds
    )
    assert run.returncode == 0, run.stdout + run.stderr
    with sqlite3.connect(state / "results.db") as database:
        found = [json.loads(body) for (body,) in database.execute("select body from records")]
    for body in found:
        for name in ("id", "run", "created", "command"):
            del body[name]
        body["metrics"] = sorted(one["name"] for one in body["metrics"])
        body["outputs"] = (body.get("outputs") or {}).get("runs_sha256")
        body["system"] = body["system"]["class_id"]  # clocks and loads are of the moment
        body["engine"]["inspection"].pop("preflight")  # how much memory was free
    return {body["judgement"]["property"] if body["kind"] == "judgement" else "timed": body for body in found}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Any]]]:
    tests = [TEXT, TPOT, FEW, TTFT, WHOLE, STOPS]
    return [
        records(tmp_path_factory.mktemp("forth"), *tests),
        records(tmp_path_factory.mktemp("back"), *reversed(tests)),
    ]


def test_the_records_are_the_same_in_either_order(both: list[dict[str, dict[str, Any]]]) -> None:
    forth, back = both
    assert set(forth) == set(back)
    assert len(forth) == 5
    for name, body in forth.items():
        assert body == back[name], name


def test_a_verdict_has_the_steps_and_rows_that_were_judged(both: list[dict[str, dict[str, Any]]]) -> None:
    shapes = {
        name: (body["workload"].get("steps"), body["workload"].get("batch"))
        for name, body in both[0].items()
        if name != "timed"
    }
    assert shapes == {
        "texts_of_46_languages_round_trip": (None, None),  # no step and no row: texts
        "inputs_stay_as_they_were_given": (None, None),
        "a_chosen_token_is_the_argmax_of_its_own_logits": (24, 8),
        "a_least_length_is_kept": (8, 1),
    }


def test_a_measurement_says_what_its_own_requests_were_told(both: list[dict[str, dict[str, Any]]]) -> None:
    timed = both[0]["timed"]
    assert timed["engine"]["inspection"]["generate"]["max_new_tokens"] == 4
    assert timed["engine"]["inspection"]["cache_length"] == 128
    assert timed["workload"]["generate_arguments"]["max_new_tokens"] == 4
