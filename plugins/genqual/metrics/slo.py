"""Limits that a profile sets on metrics, and whether a measurement meets them. Pure: no pytest, no clock.

A limit is a promise to users (100 ms a token is a fast person's reading speed), not a comparison with a baseline.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Final

from pydantic import Field, create_model

from genqual.metrics.compute import Measured
from genqual.metrics.definitions import DEFINITIONS
from genqual.toml_file import TomlTable, checked

_SCALES: Final = {"s": ("_ms", 1e-3), "B": ("_mib", 2.0**20)}


@dataclass(frozen=True, slots=True)
class Limit:
    """`bound` in the unit of `metric`, as `text` states it: `tpot_ms = 100`."""

    metric: str
    bound: float
    text: str

    def missed_by(self, value: float) -> bool:
        """Whether `value` lies on the wrong side; the bound itself is met."""
        return value > self.bound if DEFINITIONS[self.metric].better == "lower" else value < self.bound

    def said(self, metric: Measured | None) -> tuple[bool, str]:
        """Met or not, and the words: MEETS or MISSES, both numbers, how far. A metric that does not exist is missed."""
        if metric is None or metric.value is None:
            why = f" ({metric.note})" if metric is not None else ""
            return False, f"MISSES {self.text}: this workload has no {self.metric}{why}"
        missed = self.missed_by(metric.value)
        scale = self.bound / float(self.text.rpartition(" ")[2])
        return not missed, f"{'MISSES' if missed else 'MEETS'} {self.text}: {metric.value / scale:.4g}"


def read(table: Mapping[str, Any], where: str = "limits") -> tuple[Limit, ...]:
    """The limits of a profile's table: a metric's name, `_ms` behind a time and `_mib` behind memory, and a number.

    Raises BadInput that begins with `where`, names the key and lists what may be limited.
    """
    names, model = _model()
    checked(model, table, where)
    found = []
    for key, value in table.items():
        scale = _SCALES.get(DEFINITIONS[names[key]].unit, ("", 1.0))[1]
        found.append(Limit(names[key], value * scale, f"{key} = {value:g}"))
    return tuple(found)


@cache
def _model() -> tuple[Mapping[str, str], type[TomlTable]]:
    """The metric of each key that may be limited, and the model of their table."""
    names = {f"{name}{_SCALES.get(one.unit, ('', 1.0))[0]}": name for name, one in DEFINITIONS.items()}
    fields: dict[str, Any] = {key: (Annotated[float, Field(gt=0)] | None, None) for key in names}
    return names, create_model("Limits", __base__=TomlTable, **fields)
