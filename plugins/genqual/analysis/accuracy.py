"""Whether a measurement's text was judged, and judged right. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from genqual.analysis.cells import cells, ended_without_verdict, failed, waiver_of
from genqual.records.record import Record


class Accuracy:
    """Which configurations of one side were judged, and which were wrong; the newest verdict of each kind counts."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._judged: dict[str, list[Record]] = defaultdict(list)  # by hardware and engine: hashing is what costs here
        for cell in cells(records, "judgement"):
            self._judged[cell.last.key_of("hardware", "engine")].append(cell.last)

    def fault(self, record: Record) -> str | None:
        """Why this measurement's text cannot be trusted: a failed verdict on its hardware, engine and architecture.

        A failure that a waiver excuses is no reason, see `excused`.
        The fp32 mode counts for every dtype, since it finds the faults of logic that hide in bf16's noise.
        """
        for judged in self._of(record):
            if failed(judged) and waiver_of(judged) is None and judged.judgement is not None:
                what = judged.judgement
                return f"accuracy failed: {what.property} in {what.lane} mode on {judged.model.name}"
        return None

    def excused(self, record: Record) -> str | None:
        """The first known failure of this configuration that a waiver excuses, or None."""
        for judged in self._of(record):
            if failed(judged) and (excuse := waiver_of(judged)) is not None and judged.judgement is not None:
                return f"known failure, WAIVED: {judged.judgement.property} on {judged.model.name} ({excuse})"
        return None

    def known(self, record: Record) -> bool:
        """Whether anything about this configuration was judged; a test that ended before its verdict judged nothing."""
        return any(not ended_without_verdict(judged) for judged in self._of(record))

    def independent(self, record: Record) -> bool:
        """Whether what was judged about this configuration was judged by genqual's own oracle, where by any."""
        return not any(one.judgement is not None and one.judgement.independent is False for one in self._of(record))

    def _of(self, record: Record) -> Iterable[Record]:
        if not self._judged:
            return ()
        return (
            judged
            for judged in self._judged.get(record.key_of("hardware", "engine"), ())
            if judged.model.architecture == record.model.architecture
            and judged.precision.dtype in (record.precision.dtype, "fp32")
        )
