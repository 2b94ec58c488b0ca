"""Run a vendor's tool with a deadline, and read its CSV. Starts that one process; never a shell."""

from __future__ import annotations

import contextlib
import csv
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

TIMEOUT_S = 20.0  # a cold driver on eight cards needs several seconds


class ToolFailed(Exception):
    """A tool is absent, silent or refused; the message is a clause: `hl-smi is not on PATH`."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a tool printed, and its complaint (empty when it exited with 0)."""

    text: str
    complaint: str


def run_tool(argv: Sequence[str], timeout_s: float = TIMEOUT_S, *, unset: str = "") -> Answer:
    """Run `argv` (found on PATH) for at most `timeout_s` seconds. Raises ToolFailed when absent or silent.

    The environment variable `unset` is kept from it: a tool must see all cards, whatever this process is shown.
    """
    name = argv[0]
    path = shutil.which(name)
    if path is None:
        raise ToolFailed(f"{name} is not on PATH")
    try:
        process = subprocess.Popen(
            [path, *argv[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            env={key: value for key, value in os.environ.items() if key != unset},
            start_new_session=True,
        )
    except OSError as error:
        raise ToolFailed(f"{name} does not start: {error}") from error
    with contextlib.closing(_Pipes(process)):
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            _kill(process)
            raise ToolFailed(f"{name} gave no answer in {timeout_s:g} s") from None
    said = next((line.strip() for line in (err + "\n" + out).splitlines() if line.strip()), "nothing said")
    return Answer(out, "" if process.returncode == 0 else f"{name} exited with {process.returncode}: {said}")


class _Pipes:
    """The pipes of a process, closed even where the process outlives its deadline."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._pipes = [pipe for pipe in (process.stdout, process.stderr) if pipe]

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.close()


def _kill(process: subprocess.Popen[str]) -> None:
    # The whole process group: a child that keeps the pipe open would hold communicate() up after its parent is dead.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    # A process stuck inside a driver ignores SIGKILL; waiting for it without end would hang this one as well.
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=1)


def table(text: str, columns: Sequence[str]) -> tuple[list[dict[str, str | None]], list[str]]:
    """Rows of CSV without a header as dicts of `columns`, and the lines that have another number of fields.

    A value that the tool does not know (`N/A`, `[Not Supported]`, `[GPU is lost]`, empty) is None.
    """
    rows, other = [], []
    for cells in csv.reader(text.splitlines(), skipinitialspace=True):
        if len(cells) == len(columns):
            rows.append({column: _known(cell.strip()) for column, cell in zip(columns, cells, strict=True)})
        elif cells:
            other.append(", ".join(cells))
    # A banner or a stack of errors: its head is enough for one line.
    return rows, [*other[:2], "..."] if len(other) > 3 else other


def _known(cell: str) -> str | None:
    return None if not cell or cell.startswith("[") or cell.upper() in {"N/A", "ERR!", "UNKNOWN ERROR"} else cell


def number(cell: str | None) -> float | None:
    """A cell as a number, None where it is none."""
    try:
        return None if cell is None else float(cell)
    except ValueError:
        return None


def mebibytes(cell: str | None) -> int | None:
    """A cell in MiB as bytes."""
    size = number(cell)
    return None if size is None else round(size) * 2**20
