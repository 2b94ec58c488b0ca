"""Running a vendor's tool: absent, silent, refusing, and what its table means."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest

from genqual.devices.tool import ToolFailed, mebibytes, number, run_tool, table

from .tools import executable, hanging


def test_an_absent_tool_is_named(tools: Path) -> None:
    with pytest.raises(ToolFailed, match="hl-smi is not on PATH"):
        run_tool(["hl-smi"])


def test_a_tool_that_cannot_start_is_named(tools: Path) -> None:
    executable(tools, "hl-smi", "#!/nowhere/sh\n")
    with pytest.raises(ToolFailed, match=r"hl-smi does not start: .*No such file"):
        run_tool(["hl-smi"])


def test_a_tool_that_hangs_is_killed_with_its_children(tools: Path) -> None:
    hanging(tools, "hl-smi")
    started = time.monotonic()
    with pytest.raises(ToolFailed, match=r"hl-smi gave no answer in 2 s"):
        run_tool(["hl-smi"], timeout_s=2)
    # The child holds the pipe open for 60 s; waiting for end of file would take as long.
    assert time.monotonic() - started < 10
    pids = [int(pid) for pid in (tools / "pids").read_text().split()]
    left = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    # Whoever adopts an orphan reaps it in its own time, so a zombie is dead enough.
    _, alive = psutil.wait_procs(left, timeout=5)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []


def test_a_refusal_keeps_the_output_and_the_first_words(tools: Path) -> None:
    executable(tools, "nvidia-smi", "#!/bin/sh\necho 'a, b'\necho >&2\necho 'driver not loaded' >&2\nexit 9\n")
    answer = run_tool(["nvidia-smi"])
    assert answer.text == "a, b\n"
    assert answer.complaint == "nvidia-smi exited with 9: driver not loaded"


def test_a_tool_is_not_shown_the_variable_that_hides_cards(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executable(tools, "xpu-smi", '#!/bin/sh\necho "${ZE_AFFINITY_MASK-unset} ${OTHER-unset}"\n')
    monkeypatch.setenv("ZE_AFFINITY_MASK", "1")
    monkeypatch.setenv("OTHER", "kept")
    assert run_tool(["xpu-smi"], unset="ZE_AFFINITY_MASK").text == "unset kept\n"


def test_unknown_cells_are_none_and_other_lines_are_kept_apart() -> None:
    text = '0, N/A, [Not Supported]\n\nNo devices\n1,  "a, b", \nerr!, [GPU is lost], 3\n'
    rows, other = table(text, ["x", "y", "z"])
    assert rows == [
        {"x": "0", "y": None, "z": None},
        {"x": "1", "y": "a, b", "z": None},
        {"x": None, "y": None, "z": "3"},
    ]
    assert other == ["No devices"]
    assert table("a\nb\nc\nd\ne", ["x", "y"])[1] == ["a", "b", "..."]


def test_numbers_have_units_and_nonsense_has_none() -> None:
    assert mebibytes("98304") == 96 * 2**30
    assert (number("70.52"), number("warm"), number(None), mebibytes("?")) == (70.52, None, None, None)
