"""A metric of a record and what the gate said of it. Pure: no file, no network, no clock."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Literal, Protocol, Self

from genqual.records.base import Name, Number, RecordPart, Tally, Word

Better = Literal["lower", "higher"]


class Measured(Protocol):
    """What `Metric.of` reads, such as a `performance.metrics.Metric`."""

    @property
    def name(self) -> str: ...
    @property
    def unit(self) -> str: ...
    @property
    def value(self) -> float | None: ...
    @property
    def samples(self) -> Sequence[float]: ...
    @property
    def statistic(self) -> str: ...
    @property
    def better(self) -> Better: ...
    @property
    def note(self) -> str: ...


class Gated(Protocol):
    """What `Gate.of` reads, such as a `performance.verdict.GateResult`."""

    @property
    def verdict(self) -> enum.Enum: ...
    @property
    def reason(self) -> str: ...
    @property
    def estimate(self) -> float | None: ...
    @property
    def interval(self) -> tuple[float, float] | None: ...
    @property
    def e_value(self) -> float | None: ...
    @property
    def launches(self) -> int: ...


class Gate(RecordPart):
    """What the latency gate said of one metric: pass, regressed, improved, inconclusive, no_baseline.

    `estimate` and `interval` are relative changes (0.05: 5 % more), `e_value` the evidence against "no change"; null
    where nothing was compared.
    """

    verdict: Word
    reason: str = ""
    estimate: Number | None = None
    interval: tuple[Number, Number] | None = None
    e_value: Number | None = None
    launches: Tally = 0

    @classmethod
    def of(cls, result: Gated) -> Self:
        return cls(
            verdict=str(result.verdict.value),
            reason=result.reason,
            estimate=result.estimate,
            interval=result.interval,
            e_value=result.e_value,
            launches=result.launches,
        )


class Metric(RecordPart):
    """One number with its unit and raw samples; `value` is null when it could not be had, and `note` says why.

    Two metrics are the same only when name, unit, statistic and definition are.
    """

    name: Word
    unit: Name
    value: Number | None
    samples: tuple[Number, ...] = ()
    statistic: Name = "median"
    better: Better
    definition: str = ""
    note: str = ""
    gate: Gate | None = None

    @classmethod
    def of(cls, measured: Measured, *, definition: str = "", gate: Gate | None = None) -> Self:
        return cls(
            name=measured.name,
            unit=measured.unit,
            value=measured.value,
            samples=tuple(measured.samples),
            statistic=measured.statistic,
            better=measured.better,
            definition=definition,
            note=measured.note,
            gate=gate,
        )

    @property
    def identity(self) -> tuple[str, str, str, str]:
        """What must agree before two values may be compared."""
        return self.name, self.unit, self.statistic, self.definition
