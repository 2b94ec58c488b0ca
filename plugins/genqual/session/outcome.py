"""What a test says of its case: one value on the item, on each of its reports, and on the way from an xdist worker."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import pytest
from pydantic import TypeAdapter

VerdictName = Literal[
    "pass",
    "fail",
    "regressed",
    "improved",
    "waived",
    "hardware",
    "no_baseline",
    "no_reference",
    "inconclusive",
    "recorded",
    "not_applicable",
]


@dataclass(frozen=True, slots=True)
class GateChange:
    """What the gate compared: the relative change of a metric, its interval, and over how many launches."""

    estimate: float
    interval: tuple[float, float]
    launches: int


@dataclass(frozen=True, slots=True)
class ItemOutcome:
    """Everything that a test told; each field stays empty where it told nothing of the kind.

    `reason` says why nothing was judged, and `failure` is the whole of a failure that the report may name in a line.
    `text` and `limit` are lines for the end of the run. `metric` is the name of what the test gives a verdict on where
    that is timed, and `next` the command that a reader runs next, with its minutes.
    """

    device: str = ""
    verdict: VerdictName | None = None
    reason: str = ""
    records: tuple[Path, ...] = ()
    text: str = ""
    limit: str = ""
    change: GateChange | None = None
    failure: str = ""
    metric: str = ""
    next: str = ""

    @property
    def judged(self) -> bool:
        """Whether the device was judged: a known failure was, too."""
        return self.verdict in ("pass", "fail", "waived", "regressed", "improved", "hardware")

    def properties(self) -> Iterator[tuple[str, str]]:
        """The properties of the test case in JUnit's XML. They are written for readers; nothing here reads them."""
        if self.device:
            yield "genqual_device", self.device
        if self.text:
            yield "genqual_text", self.text
        for path in self.records:
            yield "genqual_record", str(path)
        if self.change is not None:
            yield "genqual_estimate", f"{self.change.estimate:+.4f}"
            yield "genqual_interval", f"{self.change.interval[0]:+.4f} {self.change.interval[1]:+.4f}"
            yield "genqual_launches", str(self.change.launches)
        if self.limit:
            yield "genqual_limit", self.limit
        if self.verdict is not None:
            yield "genqual_verdict", self.verdict
        if self.metric:
            yield "genqual_metric", self.metric
        if self.next:
            yield "genqual_next", self.next


_OUTCOME: Final = pytest.StashKey[ItemOutcome]()
_ATTRIBUTE: Final = "genqual_outcome"
_JSON: Final = TypeAdapter(ItemOutcome)


def of_item(item: pytest.Item) -> ItemOutcome:
    """What the running test has told so far."""
    return item.stash.get(_OUTCOME, ItemOutcome())


def tell(item: pytest.Item, **fields: Any) -> None:
    """Set fields of the item's outcome. Raises TypeError on one that it does not have."""
    keep(item, replace(of_item(item), **fields))


def keep(item: pytest.Item, outcome: ItemOutcome) -> None:
    """Make this the item's outcome, also of its later reports: JUnit's XML takes its properties from the last."""
    item.stash[_OUTCOME] = outcome


def tell_record(item: pytest.Item, path: Path) -> None:
    """Add a record that the test had written."""
    tell(item, records=(*of_item(item).records, path))


def attach(report: pytest.TestReport, outcome: ItemOutcome) -> None:
    """Put the outcome on a report, and its properties where JUnit's XML takes them from."""
    vars(report)[_ATTRIBUTE] = outcome
    report.user_properties = [*report.user_properties, *outcome.properties()]


def of_report(report: Any) -> ItemOutcome:
    """What the report's test had told when the report was made; an empty outcome where it is no test of ours."""
    found = vars(report).get(_ATTRIBUTE)
    return found if isinstance(found, ItemOutcome) else ItemOutcome()


def pack(data: dict[str, Any]) -> None:
    """Make the outcome among a report's serialised attributes one JSON text."""
    if isinstance(data.get(_ATTRIBUTE), ItemOutcome):
        data[_ATTRIBUTE] = _JSON.dump_json(data[_ATTRIBUTE]).decode()


def unpack(report: Any) -> None:
    """Undo `pack` on the report that was made of such attributes."""
    if isinstance(packed := vars(report).get(_ATTRIBUTE), str):
        vars(report)[_ATTRIBUTE] = _JSON.validate_json(packed)
