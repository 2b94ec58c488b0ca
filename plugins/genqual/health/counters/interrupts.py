"""Machine checks and thermal events that the processor raised, by CPU.

Source: Linux, `/proc/interrupts`: MCE machine check exceptions, THR threshold, DFR deferred errors, TRM thermal events.
MCP counts the kernel's own polls and is no event.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from genqual.devices.files import read
from genqual.health.counters.base import Reading

_SIGNALS: Final = {"MCE": "machine_check", "THR": "threshold", "DFR": "deferred_error", "TRM": "thermal_event"}


class Interrupts:
    """Counts of the rows that tell of hardware; entities are `cpu0`, `cpu1`, ..."""

    name = "interrupts"

    def read(self, root: Path) -> Reading:
        text = read(root / "proc/interrupts")
        lines = (text or "").splitlines()
        cpus = [word.lower() for word in lines[0].split()] if lines else []
        counts: dict[tuple[str, str], float] = {}
        for line in lines[1:]:
            words = line.split()
            signal = _SIGNALS.get(words[0].rstrip(":")) if words else None
            values = words[1 : 1 + len(cpus)]
            if signal and len(values) == len(cpus) and all(value.isdigit() for value in values):
                counts |= {(cpu, signal): float(value) for cpu, value in zip(cpus, values, strict=True)}
        if not counts:
            return Reading(why_not=f"{root / 'proc/interrupts'} has no row of machine checks on this architecture")
        return Reading(counts)
