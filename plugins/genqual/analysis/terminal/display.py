"""How tables show metrics, which records hold in SI units. Pure; what they mean is in `performance.definitions`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


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


SUMMARY: Final = (
    Shown("ttft", "TTFT", "ms", 1e3),
    Shown("tpot", "TPOT", "ms", 1e3),
    Shown("tokens_per_s", "tokens/s"),
    Shown("msec_per_token", "msec/token"),
    Shown("peak_memory", "memory", "MiB", 2.0**-20),
    Shown("mbu", "MBU", "%", 1e2),
    Shown("mfu", "MFU", "%", 1e2),
)
"""The rows of the terminal's performance table, in this order."""

_OTHERS: Final = (
    Shown("load_s", "load", "s"),
    Shown("e2e", "end to end", "ms", 1e3),
    Shown("itl_p50", "ITL p50", "ms", 1e3),
    Shown("itl_p90", "ITL p90", "ms", 1e3),
    Shown("itl_p99", "ITL p99", "ms", 1e3),
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
