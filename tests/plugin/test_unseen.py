"""What an engine cannot show is recorded with its reason: no launch is started for it, and no alpha is kept for it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from genqual.cases import Case
from genqual.gate.controller import Judging, Question
from genqual.gate.verdict import Verdict
from genqual.metrics.compute import Measured
from tests.here import CPU
from tests.plugin.suite import suite
from tests.plugin.test_judging import GATED


@pytest.mark.parametrize(("name", "why"), [("load_s", "a server has loaded its model"), ("peak_memory", "a client")])
def test_what_a_server_cannot_show_is_recorded_and_asks_for_nothing(name: str, why: str, tmp_path: Path) -> None:
    case = Case(CPU, "server", "llama-30m", "bf16")
    question = Question({case: frozenset()}, GATED, tmp_path)
    run = Judging(question, pytest.fail, lambda case: "", lambda case: pytest.fail("the other build is not asked"))
    generator: Any = SimpleNamespace(case=case)
    found = run.judge(generator, ["w" * 64], GATED[name], Measured(name, "s", None, (), "single", "lower", "not seen"))
    assert found.verdict is Verdict.RECORDED
    assert found.reason.startswith(f"{name} is not judged: {why}")
    assert not found.verdict.fails(gate=True), "in no way could it be judged"


SHOW = """
from genqual.session.context import RUN

def pytest_terminal_summary(terminalreporter, config):
    for case, names in config.stash[RUN].gate.question.asked.items():
        terminalreporter.write_line(f"asked of {case.engine}: {sorted(names)}")
"""


def test_what_a_server_cannot_show_takes_no_share_of_alpha(tmp_path: Path) -> None:
    (tmp_path / "show_asked.py").write_text(SHOW)
    run = suite(
        tmp_path, "-m", CPU, "--benchmark", "--engine", "server", "--endpoint", "http://127.0.0.1:9/v1", "--model",
        "llama-tiny", "--dtype", "fp32", "--collect-only", "-p", "show_asked", env={"PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert "test_load_time" in run.stdout, run.stdout + run.stderr
    assert "asked of server: ['e2e', 'itl_p50', 'tokens_per_s', 'tpot', 'ttft']" in run.stdout
