"""What hardware costs: a dated table, and $ per million tokens computed when shown, never recorded. Reads TOML only."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from genqual.analysis.interval import interval
from genqual.paths import data_dir
from genqual.records.record import Record
from genqual.toml_file import Listed, Positive, Texts, TomlTable, read

Bound = Literal["exact", "about", "at least"]
Interval = tuple[float, float]


class Price(TomlTable):
    """What `devices` devices of some hardware `classes` cost: `per_hour` dollars, as of a day, by a public source."""

    sku: str
    provider: str
    term: str
    per_hour: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    bound: Bound
    devices: Positive
    classes: Texts  # hardware classes, or shell patterns of them
    scope: str
    as_of: date
    source: str

    def of(self, used: int) -> float:
        """Dollars an hour for `used` devices: a share of one instance, or as many whole instances as it takes."""
        if used <= self.devices:
            return self.per_hour * used / self.devices
        return self.per_hour * math.ceil(used / self.devices)

    @property
    def name(self) -> str:
        """`AWS dl1.24xlarge, on demand, about $13/h, 2023-03-28`."""
        how = "" if self.bound == "exact" else f"{self.bound} "
        return f"{self.provider} {self.sku}, {self.term}, {how}${self.per_hour:g}/h, {self.as_of}"


class _PriceFile(TomlTable):
    price: Listed[Price] = ()


@dataclass(frozen=True, slots=True)
class Rate:
    """New tokens a second of one configuration, all rows and devices together, and from which metric it follows."""

    tokens_per_s: float
    interval: Interval | None
    source: str

    def dollars(self, per_hour: float) -> float:
        """$ per million new tokens at `per_hour` dollars, the hardware always busy."""
        return per_hour / 3600 / self.tokens_per_s * 1e6

    def dollars_interval(self, per_hour: float) -> Interval | None:
        """The interval of `dollars`, lower end first."""
        if self.interval is None:
            return None
        low, high = self.interval
        return per_hour / 3600 / high * 1e6, per_hour / 3600 / low * 1e6


def prices(path: Path | None = None) -> tuple[Price, ...]:
    """The table of `path`, or the one that ships with genqual. Raises BadInput that names the entry at fault."""
    place = path or data_dir("baselines") / "prices.toml"
    return read(place, _PriceFile, what="a price table such as baselines/prices.toml").price


def price_of(record: Record, table: Iterable[Price]) -> Price | None:
    """The newest price for this record's hardware class; None where nobody has said one."""
    fitting = [one for one in table if any(fnmatchcase(record.system.class_id, pattern) for pattern in one.classes)]
    return max(fitting, key=lambda one: one.as_of, default=None)


def rate(records: Sequence[Record]) -> Rate | None:
    """How fast these attempts at one configuration produce new tokens, from the metric that says it most directly."""
    first = records[0]
    asked = first.workload
    tokens = asked.batch * asked.new_tokens if asked.batch and asked.new_tokens else None
    for name, scale, inverse in (("tokens_per_s", 1.0, False), ("msec_per_token", 1e3, True), ("e2e", tokens, True)):
        found = [m for r in records for m in r.metrics if m.name == name and m.value is not None and m.value > 0]
        if not found or scale is None:
            continue
        middle = statistics.median(m.value for m in found if m.value is not None)
        spread = interval(found)
        if inverse:
            return Rate(scale / middle, (scale / spread[1], scale / spread[0]) if spread else None, name)
        return Rate(middle, spread, name)
    return None
