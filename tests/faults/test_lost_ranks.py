"""A rank that dies, hangs or raises fails one test with the true cause, and the next test passes; the real suite."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

from tests.here import CPU
from tests.plugin.suite import suite

# Two tests of one case, in this order: the first loses its rank group, the second must not notice.
TWO = ("--engine", "deepspeed-inference", "--model", "llama-tiny", "--dtype", "fp32")
TESTS = ("-k", "test_free_run_follows_the_oracle or test_logits_match_the_oracle")


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("name", "params", "cause"),
    [
        ("rank_exit", {"code": -9}, r"rank 1 was killed by SIGKILL"),
        ("rank_exit", {"code": 3}, r"rank 1 exited with code 3"),
        ("rank_raise", {"message": "the true cause"}, r"rank 1 raised RuntimeError: the true cause"),
        ("rank_sleep", {}, r"rank 1 gave no answer"),
    ],
)
def test_the_true_cause_fails_one_test_and_the_next_passes(
    name: str, params: dict[str, object], cause: str, tmp_path: Path
) -> None:
    wanted = {"name": name, "params": params, "only": "test_logits_match_the_oracle"}
    started = time.monotonic()
    run = suite(
        tmp_path, "-m", f"{CPU} and conformance", *TWO, *TESTS, "-p", "tests.faults.inject", "--no-upload",
        "--deadline-scale", "0.2", env={"GENQUAL_TEST_FAULT": json.dumps(wanted)},
    )  # fmt: skip
    said = run.stdout
    assert run.returncode == 1, said + run.stderr
    assert "1 failed, 1 passed" in said, said
    first = said[said.index("GroupLost") :]
    assert re.search(cause, first), said
    assert "rank 1" in first.splitlines()[0]
    assert "--- rank 0: stack" in said
    assert time.monotonic() - started < 180
