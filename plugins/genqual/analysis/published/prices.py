"""What hardware costs: a dated table, and $ per million tokens computed when shown, never recorded. Reads TOML only."""

from __future__ import annotations

import math
import statistics
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final, Literal, get_args

from genqual.analysis.interval import interval
from genqual.errors import BadInput
from genqual.paths import data_dir
from genqual.records.record import Record

Bound = Literal["exact", "about", "at least"]
Interval = tuple[float, float]

_KINDS: Final[dict[str, type | tuple[type, ...]]] = {
    "sku": str,
    "provider": str,
    "term": str,
    "per_hour": (int, float),
    "bound": str,
    "devices": int,
    "classes": list,
    "scope": str,
    "as_of": date,
    "source": str,
}


@dataclass(frozen=True, slots=True)
class Price:
    """What `devices` devices of some hardware `classes` cost: `per_hour` dollars, as of a day, by a public source."""

    sku: str
    provider: str
    term: str
    per_hour: float
    bound: Bound
    devices: int
    classes: tuple[str, ...]
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
    try:
        table = tomllib.loads(place.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{place}: {error.strerror}; give a price table, such as baselines/prices.toml") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadInput(f"{place}: not a price table: {error}") from None
    return tuple(_price(entry, f"{place}, price {n}") for n, entry in enumerate(table.get("price", []), start=1))


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


def _price(entry: dict[str, Any], where: str) -> Price:
    for name, kind in _KINDS.items():
        if name not in entry:
            raise BadInput(f"{where}: {name} is missing; every price has {', '.join(_KINDS)}")
        if not isinstance(entry[name], kind) or isinstance(entry[name], bool):
            raise BadInput(f"{where}: {name} is {entry[name]!r}, which is no {name} as baselines/prices.toml has them")
    if unknown := sorted(set(entry) - set(_KINDS)):
        raise BadInput(f"{where}: unknown field {', '.join(unknown)}")
    if entry["bound"] not in get_args(Bound):
        raise BadInput(f"{where}: bound {entry['bound']!r}: give {', '.join(get_args(Bound))}")
    per_hour = float(entry["per_hour"])
    if not (math.isfinite(per_hour) and per_hour > 0) or entry["devices"] < 1:
        raise BadInput(f"{where}: {per_hour:g} $/h for {entry['devices']} devices; both must be above 0")
    if not all(isinstance(name, str) for name in entry["classes"]):
        raise BadInput(f"{where}: classes must be texts, hardware classes or shell patterns of them")
    return Price(**{**entry, "per_hour": per_hour, "classes": tuple(entry["classes"])})
