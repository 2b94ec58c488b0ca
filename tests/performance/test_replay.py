"""pytest-benchmark, driven as its users drive it, must show exactly the samples that a rank measured."""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from genqual.metrics.compute import BadClock
from genqual.metrics.pytest_benchmark import ReplayClock, replay

# Sums of these round in floating point, so a clock that ran on would not give them back.
SAMPLES = [0.1, 0.2, 0.30000000000000004, 1e-9, 0.012345678901234567, 12.5, 0.1]

CONFTEST = """
import pytest
from genqual.metrics.pytest_benchmark import ReplayClock

@pytest.fixture
def clock(request):
    clock = ReplayClock()
    request.node.add_marker(pytest.mark.benchmark(timer=clock))
    return clock

def pytest_benchmark_generate_machine_info():
    return {}  # the real one asks the CPU for a second

def pytest_benchmark_generate_commit_info():
    return {}
"""
SHOWS = f"""
from genqual.metrics.pytest_benchmark import replay

def test_tpot(clock, benchmark):
    shown = replay(benchmark, clock, {SAMPLES!r}, group="tpot", launches=[1, 2], unit="s")
    assert shown is benchmark.enabled

def test_ttft(clock, benchmark):
    replay(benchmark, clock, [0.25], group="ttft")
"""
BENCHMARK = ("-p", "pytest_benchmark.plugin")


def plain(directory: Path, *arguments: str, tests: str = SHOWS) -> subprocess.CompletedProcess[str]:
    """Run pytest in `directory` with nothing installed but what `arguments` name; warnings are errors."""
    (directory / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    (directory / "conftest.py").write_text(CONFTEST)
    (directory / "test_show.py").write_text(tests)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", ".", *arguments]
    return subprocess.run(
        command,
        cwd=directory,
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": "", "COLUMNS": "400"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def of(path: Path, name: str) -> dict[str, Any]:
    found = json.loads(path.read_text())["benchmarks"]
    return next(one for one in found if one["name"] == name)


def test_table_json_and_saved_run_show_our_samples(tmp_path: Path) -> None:
    options = ("--benchmark-json", "out.json", "--benchmark-save", "ours", "--benchmark-save-data")
    done = plain(tmp_path, *BENCHMARK, *options, "--benchmark-time-unit", "ms", "--benchmark-storage", "store")
    assert done.returncode == 0, done.stdout + done.stderr

    (saved,) = (tmp_path / "store").rglob("*_ours.json")
    for path in (tmp_path / "out.json", saved):
        shown = of(path, "test_tpot")
        stats = shown["stats"]
        assert stats["data"] == SAMPLES  # bit for bit, in our order
        assert stats["rounds"] == len(SAMPLES)
        assert stats["iterations"] == 1
        assert stats["min"] == min(SAMPLES)
        assert stats["max"] == max(SAMPLES)
        assert stats["median"] == statistics.median(SAMPLES)
        assert stats["mean"] == pytest.approx(sum(SAMPLES) / len(SAMPLES), rel=1e-12)
        assert stats["stddev"] == pytest.approx(statistics.stdev(SAMPLES), rel=1e-12)
        assert stats["ops"] == pytest.approx(len(SAMPLES) / sum(SAMPLES), rel=1e-12)
        assert shown["group"] == "tpot"
        assert shown["extra_info"] == {"launches": [1, 2], "unit": "s"}
        assert shown["options"]["timer"] == "genqual.metrics.pytest_benchmark"
        assert of(path, "test_ttft")["stats"]["data"] == [0.25]

    lowest, highest, mean = row(done.stdout, "test_tpot")[:3]
    assert (lowest, highest) == (0.0, 12500.0)
    assert mean == pytest.approx(1e3 * sum(SAMPLES) / len(SAMPLES), abs=1e-3)

    # Away from the settings above: pytest warns there that our package was imported before its own hook.
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    compared = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest_benchmark",
            "--storage",
            f"file://{tmp_path}/store",
            "compare",
            "--time-unit=ms",
            "--columns=median",
        ],
        cwd=elsewhere,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert row(compared.stdout, "test_tpot")[0] == 100.0
    assert row(compared.stdout, "test_ttft")[0] == 250.0


def row(table: str, name: str) -> list[float]:
    """The numbers of a table's row, without the ratios in brackets."""
    (line,) = [line for line in table.splitlines() if re.match(rf"{name}\b.* \d", line)]
    return [float(word) for word in re.sub(r"\([^)]*\)|,|;.*", "", line).split()[1:] if re.fullmatch(r"[\d.]+", word)]


@pytest.mark.parametrize(
    "options",
    [
        pytest.param((*BENCHMARK, "--benchmark-disable"), id="disabled"),
        pytest.param((*BENCHMARK, "-p", "xdist", "-p", "xdist.looponfail", "-n", "1"), id="xdist"),
        pytest.param((*BENCHMARK, "--benchmark-cprofile", "tottime"), id="profiled"),
    ],
)
def test_the_test_itself_does_not_depend_on_the_display(tmp_path: Path, options: tuple[str, ...]) -> None:
    done = plain(tmp_path, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        pytest.param("benchmark(clock.step)", "read twice without a step", id="calibrated"),
        pytest.param("replay(benchmark, clock, [])", "no samples", id="nothing"),
        pytest.param("replay(benchmark, clock, [1.0, float('nan')])", "sample 1 is nan", id="nan"),
        pytest.param("clock.load([1.0]); benchmark.pedantic(clock.step, rounds=2)", "all 1 samples", id="too many"),
        pytest.param("clock.load([1.0]); benchmark.pedantic(clock.step, iterations=2)", "two steps", id="iterations"),
    ],
)
def test_misuse_is_an_error_and_never_a_number(tmp_path: Path, body: str, complaint: str) -> None:
    head = "from genqual.metrics.pytest_benchmark import ReplayClock, replay\n\ndef test_wrong(clock, benchmark):\n    "
    done = plain(tmp_path, *BENCHMARK, tests=head + body + "\n")
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"BadClock: {complaint}" in done.stdout


def test_a_mark_that_came_too_late_is_noticed(tmp_path: Path) -> None:
    late = "from genqual.metrics.pytest_benchmark import ReplayClock, replay\n\ndef test_wrong(benchmark, clock):\n    "
    done = plain(tmp_path, *BENCHMARK, tests=late + "replay(benchmark, clock, [1.0])\n")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "BadClock: pytest-benchmark read 0 of 1 samples: its timer is another clock" in done.stdout


@pytest.mark.parametrize("sample", [0.0, -1.0, float("nan"), float("inf")])
def test_a_sample_that_is_no_duration_is_refused(sample: float) -> None:
    with pytest.raises(BadClock, match="sample 1"):
        ReplayClock([1.0, sample])


def test_a_clock_can_be_loaded_again() -> None:
    clock = ReplayClock([1.0])
    for sample in (2.0, 3.0):
        clock.load([sample])
        start = clock()
        clock.step()
        assert clock() - start == sample


class Off:
    """pytest-benchmark's fixture, as it is under xdist."""

    enabled = False
    group: str | None = None

    def __init__(self) -> None:
        self.extra_info: dict[str, Any] = {}

    def pedantic(self, target: Any, *, rounds: int, iterations: int) -> object:
        return target()


def test_a_disabled_display_says_that_nothing_was_shown() -> None:
    assert replay(Off(), ReplayClock(), SAMPLES) is False
