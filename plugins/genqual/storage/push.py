"""Drain the spool into sinks. A sink that fails keeps its records pending and changes nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from genqual.errors import GenqualError
from genqual.records.record import Record
from genqual.records.redaction import redact, scrub
from genqual.storage.record_dir import RecordDirectory, SetAside
from genqual.storage.sinks.base import Sink
from genqual.storage.sinks.registry import ledger_name, open_sink
from genqual.storage.spool import Spool

DEFAULT_UPLOAD: Final = "sqlite:///.genqual/results.db"
BATCH: Final = 200  # records read, sent and noted in the ledger together


@dataclass(slots=True)
class Delivery:
    """What one sink got: `sent` records reached it now, of which `new` were not there before."""

    sink: str  # without password
    sent: int = 0
    new: int = 0
    failed: str | None = None
    note: str | None = None

    def __str__(self) -> str:
        counts = f"{self.sink}: {self.sent} sent, {self.new} new there"
        return "; ".join(filter(None, (counts, self.failed and f"FAILED: {self.failed}", self.note)))


@dataclass(slots=True)
class PushReport:
    """What happened, sink by sink, and which files are no records that could be sent."""

    deliveries: list[Delivery] = field(default_factory=list)
    set_aside: list[SetAside] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Every record that could be read is in every sink."""
        return not any(delivery.failed for delivery in self.deliveries)

    @property
    def quarantined(self) -> list[SetAside]:
        """The damaged files, moved where they are kept for a person to look at."""
        return [item for item in self.set_aside if item.quarantined]

    def lines(self) -> list[str]:
        """One line a sink and one a file set aside, safe to print."""
        aside = (
            f"{item.path}: {'quarantined' if item.quarantined else 'left out'}: {item.reason}"
            for item in self.set_aside
        )
        return [*map(str, self.deliveries), *aside]


def push(
    spool: Spool, urls: Sequence[str], *, again: bool = False, known: Mapping[str, Record] | None = None
) -> PushReport:
    """Send to each of `urls` what its ledger lacks, or everything when `again`. Never raises for a sink or a file.

    `known` are records, by id, that need not be read from their files.
    """
    report = PushReport()
    for place in spool.places:
        place.sweep()
    for url in urls:
        delivery = Delivery(redact(url))
        report.deliveries.append(delivery)
        sink: Sink | None = None
        try:
            sink = open_sink(url)
            _drain(spool, sink, delivery, report, again=again, known=known or {})
        except GenqualError as error:
            delivery.failed = scrub(str(error), url)
        except Exception as error:  # noqa: BLE001 - a third party's sink may raise anything; its records stay pending
            delivery.failed = scrub(f"{type(error).__name__}: {error}. The records stay in the spool", url)
        finally:
            if sink is not None:
                _close(sink, delivery, url)
    return report


def _drain(
    spool: Spool, sink: Sink, delivery: Delivery, report: PushReport, *, again: bool, known: Mapping[str, Record]
) -> None:
    ledger = ledger_name(sink)
    pending = spool.pending(ledger, again=again, known=known)
    # A store of objects gets a session's records together; every other sink as many as it can take in its stride.
    size = None if getattr(sink, "whole", False) else BATCH
    while batch := list(islice(pending, size)):
        report.set_aside.extend(
            item for _, item in batch if isinstance(item, SetAside) and item not in report.set_aside
        )
        found = [(place, item) for place, item in batch if isinstance(item, Record)]
        if not found:
            continue
        delivery.new += sink.send([record for _, record in found])
        delivery.sent += len(found)
        try:
            for place in spool.places:
                _mark(place, ledger, [record.id for where, record in found if where is place])
        except OSError as error:
            delivery.note = (
                f"the ledger cannot be written ({error.strerror or error}), so the next push sends them again"
            )


def _mark(place: RecordDirectory, ledger: str, identifiers: Sequence[str]) -> None:
    if identifiers:
        place.mark(ledger, identifiers)


def _close(sink: Sink, delivery: Delivery, url: str) -> None:
    try:
        sink.close()
    except Exception as error:  # noqa: BLE001 - as above: what was sent is sent, and the next sink must get its turn
        delivery.note = scrub(f"closing it failed: {type(error).__name__}: {error}", url)
