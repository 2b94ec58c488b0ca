"""A verdict on one property of greedy generation, as a record keeps it. Pure: no file, no network, no clock."""

from __future__ import annotations

from typing import Protocol, Self

from genqual.records.base import Name, Number, RecordPart, Tally, Word


class Judged(Protocol):
    """What `Judgement.of` reads, such as a `conformance.judgement.Judgement`."""

    @property
    def status(self) -> str: ...
    @property
    def lane(self) -> str: ...
    @property
    def tier(self) -> str: ...
    @property
    def explanation(self) -> str: ...
    @property
    def nrms(self) -> float | None: ...
    @property
    def limit(self) -> float | None: ...
    @property
    def ratio(self) -> float | None: ...
    @property
    def flips(self) -> int: ...
    @property
    def flips_beyond_margin(self) -> int: ...
    @property
    def worst(self) -> tuple[int, int] | None: ...
    @property
    def judged(self) -> int: ...
    @property
    def total(self) -> int: ...
    @property
    def independent(self) -> bool | None: ...


class Judgement(RecordPart):
    """`verdict` (pass, fail, no_reference) on `property` (greedy, cache), and what it rests on.

    `nrms` against its `limit` is dimensionless; `ratio` is nrms in the lane's own unit: 1 is the honest envelope, or
    the limit in the fp32 lane. `worst` is a (step, row); `judged` of `total` such cells were. Null: not measured.
    """

    property: Word
    verdict: Word
    lane: Name
    tier: Name
    explanation: str = ""
    nrms: Number | None = None
    limit: Number | None = None
    ratio: Number | None = None
    flips: Tally | None = None
    flips_beyond_margin: Tally | None = None
    worst: tuple[Tally, Tally] | None = None
    judged: Tally | None = None
    total: Tally | None = None
    independent: bool | None = None

    @classmethod
    def of(cls, name: str, judged: Judged) -> Self:
        """The verdict on property `name`."""
        return cls(
            property=name,
            verdict=judged.status,
            lane=judged.lane,
            tier=judged.tier,
            explanation=judged.explanation,
            nrms=judged.nrms,
            limit=judged.limit,
            ratio=judged.ratio,
            flips=judged.flips,
            flips_beyond_margin=judged.flips_beyond_margin,
            worst=judged.worst,
            judged=judged.judged,
            total=judged.total,
            independent=judged.independent,
        )
