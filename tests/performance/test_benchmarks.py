"""The programs in tests/benchmarks: their arithmetic on made-up arms, and that they start. Never their timings."""

from __future__ import annotations

import io
import math
import random
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.benchmarks import gate_power
from tests.benchmarks.ratios import Progress, alternate, so_far, summarise, table
from tests.benchmarks.tpot_overhead import Arms

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "module", ["tpot_overhead", "time_to_verdict", "gate_power", "gate_simulation", "gate_end_to_end", "xeon_decode"]
)
def test_help_says_what_is_compared(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", f"tests.benchmarks.{module}", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "--json" in done.stdout
    assert "Exit status 0" in done.stdout
    assert not [line for line in done.stderr.splitlines() if line.split("|")[-1].strip() == "torch"]


@given(st.floats(0.5, 2.0), st.floats(0.9, 1.1))
def test_a_steady_drift_cancels(truth: float, drift: float) -> None:
    clock = 1.0

    def host() -> float:
        nonlocal clock
        clock *= drift
        return clock

    ratios = alternate(lambda: truth * host(), host, 9)
    assert len(ratios) == 9
    assert ratios == pytest.approx([truth] * 9)


def test_the_interval_holds_the_median_as_often_as_it_says() -> None:
    source = random.Random(1)
    held = 0
    for _ in range(2000):
        found = summarise([source.lognormvariate(0.0, 0.1) for _ in range(15)], confidence=0.95)
        held += found.low <= 1.0 <= found.high
    # The binomial bound is 96.5 % for 15 values; three standard errors of 2000 draws are 1.2 %.
    assert abs(held / 2000 - 0.965) < 0.013


def test_the_interval_by_hand() -> None:
    found = summarise([float(n) for n in range(1, 11)], confidence=0.95)
    # P(at most 1 of 10 below the median) = 11/1024; twice that is 2.1 %, with 2 of 10 it would be 10.9 %.
    assert (found.low, found.median, found.high) == (2.0, 5.5, 9.0)


def test_too_few_ratios_hold_nothing() -> None:
    assert summarise([1.0] * 8).within(0.0)
    with pytest.raises(ValueError, match="more rounds"):
        summarise([1.0] * 7)


@pytest.mark.parametrize(
    ("low", "high", "within"), [(0.995, 1.005, True), (0.985, 1.0, False), (1.0, 1.015, False), (0.9, 1.1, False)]
)
def test_within_needs_the_whole_interval(low: float, high: float, within: bool) -> None:
    middle = math.sqrt(low * high)
    assert summarise([low] * 4 + [middle] + [high] * 4).within(0.01) is within


def test_arms_that_did_other_work_are_not_compared() -> None:
    arms = object.__new__(Arms)
    arms.tokens = {"ours": [[1, 2]], "generate": [[1, 2]]}
    arms.check()
    arms.tokens["bare loop"] = [[1, 3]]
    with pytest.raises(SystemExit, match="bare loop made other tokens"):
        arms.check()


def test_a_table_lines_up() -> None:
    assert table([["a", "bb"], ["ccc", "d"]]) == "a    bb\n-------\nccc  d"


def kept(z: float, seed: int) -> dict[str, Any]:
    """A launch as gate_launches keeps it: its steps vary far more between launches than z does."""
    rng = np.random.default_rng(seed)
    speed = math.exp(0.15 * rng.standard_normal())
    return {
        "z": z + 0.006 * rng.standard_normal(),
        "raw": math.log(0.01 * speed),
        "probes": {"cpu_share": 0.97, "frozen_log_s": math.log(0.005 * speed)},
        "same": (0.01 * rng.standard_normal(8)).tolist(),
        "slowed": (0.05 + 0.01 * rng.standard_normal(8)).tolist(),
        "step_s": (0.01 * speed * math.exp(z - 0.8) * np.exp(0.03 * rng.standard_normal(140))).tolist(),
    }


def test_the_rules_are_replayed_on_the_same_launches(capsys: pytest.CaptureFixture[str]) -> None:
    fault_free = [kept(0.8, seed) for seed in range(24)]
    slow = [kept(0.8 + math.log(1.05), 100 + seed) for seed in range(12)]
    assert gate_power.report("quiet", [*fault_free, {"failed": "it died"}], slow, 20, 1, 1)
    said = capsys.readouterr().out
    assert "24 fault-free launches, sigma of z 0.76%" in said
    rows = {line.split("  ")[0]: line.split() for line in said.splitlines() if "%" in line and "to" in line}
    assert rows["genqual"][1] == "0.00%"
    assert "100.00%" in rows["genqual"]
    assert len(rows) == 5
    counts = gate_power.replay(fault_free, slow, 20, 1, 1)
    assert counts["mean * 1.05"]["null"]["regressed"] > 0  # what one launch against one does on such a host


def test_how_far_launches_differ_is_told_by_the_level_of_their_steps() -> None:
    """Three launches whose fastest steps are alike, the third of them on a host that others slowed half of the time."""
    steps = ([1.0] * 50 + [1.02] * 50, [1.0] * 50 + [1.04] * 50, [1.0] * 40 + [1.5] * 60)
    kept = [{"step_s": one, "frozen_s": one} for one in steps]
    medians = [statistics.median(map(math.log, one)) for one in steps]
    said = {line.split("  ")[0]: line for line in gate_power.levels([*kept, {"step_s": [9.0]}]).splitlines()}
    assert "of 2 quiet of 3" in said["level of the steps"]
    both = [f"{statistics.stdev(some):.2%}" for some in (medians, medians, medians[:2], medians[:2])]
    assert [word for word in said["median"].split() if "%" in word] == both
    assert said["fastest 5 %"].count("0.00%") == 4


def test_too_few_launches_are_not_replayed(capsys: pytest.CaptureFixture[str]) -> None:
    assert not gate_power.report("quiet", [kept(0.8, 1)], [], 20, 1, 1)
    assert "too few to replay" in capsys.readouterr().out


class _Stream(io.StringIO):
    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


def test_progress_is_one_line_that_is_rewritten() -> None:
    stream = _Stream(terminal=True)
    progress = Progress(stream)
    for text in ("round 1 of 9: 1.0010", "round 2"):
        progress.show(text)
    progress.clear()
    said = stream.getvalue()
    assert "\n" not in said
    assert said.split("\r") == ["", "round 1 of 9: 1.0010", "round 2" + " " * 13, " " * 7, ""]


def test_progress_is_quiet_where_nobody_watches() -> None:
    stream = _Stream(terminal=False)
    Progress(stream).show("round 1 of 9")
    assert stream.getvalue() == ""


def test_a_ratio_is_told_as_far_as_it_is_known() -> None:
    assert so_far([]) == "warming up"
    assert so_far([1.0, 1.5]) == "1.2500"
    assert so_far([1.0] * 8) == "1.0000 [1.0000, 1.0000]"
