"""What a store of cells says: survivors, false alarms, the heat map. Pure but for altair, when it draws."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from genqual.faults import CATALOGUE
from genqual.faults.matrix.other_rules import RULES
from genqual.faults.matrix.store import FAULT_FREE, MatrixCell
from genqual.faults.matrix.tiers import TIERS

JUDGED: Final = ("alarm", "pass", "known")
MODES: Final = ("fp32", "declared")


@dataclass(frozen=True, slots=True)
class ModelFaults:
    """What became of the faults that were put into one model, whatever the engine; names in the catalogue's order."""

    model: str
    judged: Mapping[str, tuple[str, ...]]  # precision mode -> faults
    found: Mapping[str, tuple[str, ...]]
    fault_free: Mapping[str, tuple[int, int]]  # precision mode -> judgements of harmless runs, those that alarmed

    @property
    def faults(self) -> tuple[str, ...]:
        """Judged in any mode."""
        return _ordered(set().union(*map(set, self.judged.values())))

    @property
    def survivors(self) -> tuple[str, ...]:
        """Found in no mode on this model."""
        return tuple(name for name in self.faults if not any(name in names for names in self.found.values()))

    def missed(self, mode: str) -> tuple[str, ...]:
        """Judged in `mode` and not found there."""
        return tuple(name for name in self.judged[mode] if name not in self.found[mode])


class FaultMatrix:
    """Cells, and what follows from them."""

    def __init__(self, cells: Iterable[MatrixCell]) -> None:
        cells = list(cells)
        self.cells = [cell for cell in cells if cell.outcome in JUDGED]
        self.errors = [cell for cell in cells if cell.outcome == "error"]
        self.unjudged = [cell for cell in cells if cell.outcome == "not judged"]
        self.ours = [cell for cell in self.cells if cell.test not in RULES and cell.test not in TIERS]

    @property
    def faults(self) -> list[str]:
        """Faults that were judged at all, in the order of the catalogue; neither fault-free runs nor controls."""
        seen = {cell.fault for cell in self.ours}
        return [name for name, known in CATALOGUE.items() if name in seen and not known.equivalent]

    @property
    def checks(self) -> list[str]:
        """Properties, as they first come, then the rules of others and our own judges with less evidence."""
        return [*self.properties, *RULES, *TIERS]

    @property
    def properties(self) -> list[str]:
        """Tests of the suite, as they first come."""
        return list(dict.fromkeys(cell.test for cell in self.ours))

    def survivors(self) -> list[str]:
        """Faults that no property found in any precision mode, on any model or engine."""
        found = {cell.fault for cell in self.ours if cell.outcome == "alarm"}
        return [name for name in self.faults if name not in found]

    def by_model(self) -> list[ModelFaults]:
        """Model by model, in the order of the cells: a fault that one model shows may survive on another."""
        rows = []
        for model in dict.fromkeys(cell.model for cell in self.ours):
            cells = {mode: [cell for cell in self.ours if (cell.model, cell.lane) == (model, mode)] for mode in MODES}
            wrong = {mode: [cell for cell in found if not _harmless(cell.fault)] for mode, found in cells.items()}
            right = {mode: [cell for cell in found if _harmless(cell.fault)] for mode, found in cells.items()}
            rows.append(
                ModelFaults(
                    model,
                    {mode: _ordered({cell.fault for cell in found}) for mode, found in wrong.items()},
                    {mode: _ordered({cell.fault for cell in found if cell.outcome == "alarm"})
                     for mode, found in wrong.items()},
                    {mode: (len(found), sum(cell.outcome == "alarm" for cell in found))
                     for mode, found in right.items()},
                )
            )  # fmt: skip
        return rows

    def fault_free(self) -> list[MatrixCell]:
        """Judgements of runs that are right: without a fault, or with an equivalent one."""
        return [cell for cell in self.ours if _harmless(cell.fault)]

    def known(self) -> list[MatrixCell]:
        """Those of them in which the engine itself failed, as a waiver says."""
        return [cell for cell in self.fault_free() if cell.outcome == "known"]

    def false_alarms(self) -> list[MatrixCell]:
        """Those of them that alarmed."""
        return [cell for cell in self.fault_free() if cell.outcome == "alarm"]

    def share(self, check: str) -> tuple[int, int, int, int]:
        """Of one check: faults found, faults judged, harmless runs alarmed, harmless runs judged.

        A fault is found by a check when one of its cells alarms; a harmless run is one engine, model and dtype.
        """
        cells = [cell for cell in self.cells if cell.test == check]
        wrong = [cell for cell in cells if not _harmless(cell.fault)]
        right = [cell for cell in cells if _harmless(cell.fault)]
        return (
            len({cell.fault for cell in wrong if cell.outcome == "alarm"}),
            len({cell.fault for cell in wrong}),
            len({_run(cell) for cell in right if cell.outcome == "alarm"}),
            len({_run(cell) for cell in right}),
        )

    def judges(self) -> list[tuple[str, int, int, int, int]]:
        """This suite and the rules of others on the same runs: name, faults found, judged, harmless alarmed, judged."""
        return [("this suite", *self._suite()), *((rule.removeprefix("rule "), *self.share(rule)) for rule in RULES)]

    def tiers(self) -> list[tuple[str, int, int, int, int]]:
        """Our own judges by what they are shown, the most first; numbers as above. Empty in stores of before."""
        less = [(tier, self.share(tier)) for tier in TIERS]
        if not any(judged or right for _, (_, judged, _, right) in less):
            return []
        return [("logits", *self._suite()), *((tier.removeprefix("tier "), *counts) for tier, counts in less)]

    def _suite(self) -> tuple[int, int, int, int]:
        wrong, right = self.false_alarms(), self.fault_free()
        return (
            len(self.faults) - len(self.survivors()),
            len(self.faults),
            len({_run(cell) for cell in wrong}),
            len({_run(cell) for cell in right}),
        )

    def lanes(self, fault: str, check: str) -> str:
        """Where `check` finds `fault`: "F" in fp32, "D" in declared mode, both, "." in none, " " not judged."""
        cells = [cell for cell in self.cells if cell.fault == fault and cell.test == check]
        if not cells:
            return " "
        found = {cell.lane for cell in cells if cell.outcome == "alarm"}
        return ("F" if "fp32" in found else "") + ("D" if "declared" in found else "") or "."


def _ordered(names: set[str]) -> tuple[str, ...]:
    return tuple(name for name in CATALOGUE if name in names)


def _harmless(fault: str) -> bool:
    return fault == FAULT_FREE or (fault in CATALOGUE and CATALOGUE[fault].equivalent)


def _run(cell: MatrixCell) -> tuple[str, ...]:
    return (cell.engine, str(cell.ranks), str(cell.cores), cell.model, cell.dtype, cell.fault)


def titled(check: str) -> str:
    """A test's name as a property reads."""
    return check.removeprefix("test_").replace("_", " ")


def draw(matrix: FaultMatrix, path: Path) -> None:
    """Write the heat map, faults down and checks across, as SVG."""
    import altair as alt  # only where something is drawn

    words = {"F": "fp32 only", "D": "declared mode only", "FD": "both modes", ".": "not found"}
    rows: list[Mapping[str, Any]] = [
        {"fault": fault, "check": titled(check), "found": words[lanes]}
        for fault in matrix.faults
        for check in matrix.checks
        if (lanes := matrix.lanes(fault, check)) != " "
    ]
    colours = ["#1b6ca8", "#f2a541", "#1e8449", "#eceff1"]
    chart = (
        alt.Chart(alt.InlineData(values=rows))
        .mark_rect(stroke="white")
        .encode(
            x=alt.X("check:N", sort=[titled(check) for check in matrix.checks], title=None, axis=alt.Axis(orient="top",
                    labelAngle=-60, labelLimit=400)),
            y=alt.Y("fault:N", sort=matrix.faults, title=None),
            color=alt.Color("found:N", title="found in", scale=alt.Scale(domain=list(words.values()), range=colours)),
        )
        .properties(width=alt.Step(14), height=alt.Step(11))
    )  # fmt: skip
    chart.save(str(path), format="svg")
