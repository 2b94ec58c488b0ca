"""How tables show metrics, which records hold in SI units. What they mean is in `metrics.definitions`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from genqual.metrics.registry import definitions


@dataclass(frozen=True, slots=True)
class Shown:
    """A metric in a table: `label` with `unit` behind it, the record's value multiplied by `scale`."""

    name: str
    label: str
    unit: str = ""
    scale: float = 1.0

    @property
    def title(self) -> str:
        """`TTFT ms`."""
        return f"{self.label} {self.unit}".rstrip()


_COLUMNS: Final = {name: one.column for name, one in definitions().items() if one.column is not None}
_SHOWN: Final = {name: Shown(name, one.label, one.unit, one.scale) for name, one in _COLUMNS.items()}

SUMMARY: Final = tuple(_SHOWN[name] for name, one in _COLUMNS.items() if one.summary)
"""The rows of the terminal's performance table, in this order."""

_OTHERS: Final = tuple(
    sorted(
        (_SHOWN[name] for name, one in _COLUMNS.items() if not one.summary),
        key=lambda one: ("load_s", "e2e").index(one.name) if one.name in ("load_s", "e2e") else 2,
    )
)

ORDER: Final = {shown.name: index for index, shown in enumerate((*SUMMARY, *_OTHERS))}
_KNOWN: Final = {shown.name: shown for shown in (*SUMMARY, *_OTHERS)}


def shown(name: str, unit: str) -> Shown:
    """How to show a metric of this name and unit; one that is not known here is shown as it is."""
    return _KNOWN.get(name) or Shown(name, name, "" if unit == "1" else unit)


def number(value: float) -> str:
    """Three significant digits without an exponent, four where they stand before the point: 0.0123 12.3 1234."""
    magnitude = abs(value)
    if magnitude >= 100:
        return f"{value:.0f}"
    if magnitude >= 10:
        return f"{value:.1f}"
    if magnitude >= 1:
        return f"{value:.2f}"
    return f"{value:.3g}"
