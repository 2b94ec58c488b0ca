"""The cells of the detection matrix: one line of JSON each, written at once, so that a run can go on where it was."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from genqual.cases import PROCESSORS, Case
from genqual.devices.base import kind_of
from genqual.errors import BadInput

Outcome = Literal["alarm", "pass", "known", "not applicable", "not judged", "error"]
"""`alarm`: a judgement failed. `known`: a run without a fault of ours alarmed, and a waiver says what is wrong with
that engine. `error`: an exception ended it, such as that of an injector which is broken: that finds nothing."""

FAULT_FREE = "honest"


@dataclass(frozen=True, slots=True)
class MatrixCell:
    """What one check said of one case with one fault in it; `fault` is "honest" where there was none."""

    engine: str
    ranks: int
    model: str
    dtype: str
    fault: str
    check: str  # a test with its own parameters, or the rule of others
    outcome: Outcome
    why: str = ""
    hardware: str = ""  # the class it was judged on; empty in stores of before it was kept
    cores: int = 1  # of each rank
    subject: str = ""  # a digest of what the names stood for, where that may be another thing tomorrow; see `judged`

    @property
    def key(self) -> tuple[str, int, int, str, str, str, str]:
        return (self.engine, self.ranks, self.cores, self.model, self.dtype, self.fault, self.check)

    @property
    def test(self) -> str:
        """The check without its parameters: a property."""
        return self.check.partition("[")[0]

    @property
    def finds(self) -> bool:
        """Whether a property of the suite alarmed; a rule of others is none."""
        return self.outcome == "alarm" and self.check.startswith("test_")

    @property
    def lane(self) -> str:
        return "fp32" if self.dtype == "fp32" else "declared"


def key_of(case: Case, fault: str, check: str) -> tuple[str, int, int, str, str, str, str]:
    """The key of a cell that may not exist yet."""
    return (case.engine, case.ranks, case.cores_per_rank, case.model, case.dtype, fault, check)


class Store:
    """A file of cells; the last one of a key counts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cells: dict[tuple[Any, ...], MatrixCell] = {cell.key: cell for cell in _read(path)}
        self._found = {cell.key[:-1] for cell in self.cells.values() if cell.finds}

    def judged(self, key: tuple[Any, ...], hardware: str, subject: str) -> bool:
        """Whether there is a cell of this key that need not be judged again; an error may have been mended since.

        It must be of this hardware, and of this `subject`: the weights at a path, a third party's engine or program. A
        store of before hardware was kept is of a processor.
        """
        cell = self.cells.get(key)
        if cell is None or cell.outcome == "error" or cell.subject != subject:
            return False
        return kind_of(cell.hardware) == kind_of(hardware) or (
            not cell.hardware and hardware.partition("-")[0] in PROCESSORS
        )

    def found(self, case: Case, fault: str) -> bool:
        """Whether a property of the suite has found `fault` in `case`; others' rules do not count."""
        return key_of(case, fault, "")[:-1] in self._found

    def add(self, cell: MatrixCell) -> None:
        """Write one cell, whole, before anything else happens."""
        self.cells[cell.key] = cell
        if cell.finds:
            self._found.add(cell.key[:-1])
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(asdict(cell), ensure_ascii=False) + "\n")


def _read(path: Path) -> Iterator[MatrixCell]:
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            yield MatrixCell(**json.loads(line))
        except (ValueError, TypeError) as error:
            if number == len(lines):
                return  # the last line of a run that was killed while writing: its cell is judged again
            raise BadInput(f"{path}, line {number}: not a cell of a detection matrix ({error}); remove it") from None
