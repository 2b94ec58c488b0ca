"""NVIDIA GPUs as a device. Asks NVML or nvidia-smi, neither of which creates a CUDA context; imports no torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from genqual.cases import Json
from genqual.devices import nvml
from genqual.devices.base import HardwareIdentity
from genqual.devices.cards import Card, Cards, Choice, Scan
from genqual.devices.files import whole
from genqual.devices.tool import ToolFailed, mebibytes, number, run_tool, table

FIELDS = ("index", "uuid", "pci.bus_id", "name", "driver_version", "memory.total", "mig.mode.current")
READINGS = ("index", "temperature.gpu", "power.draw", "clocks.sm", "clocks.mem", "utilization.gpu", "memory.used")
# Driver 535 renamed the field; each driver knows at least one of the names.
REASONS = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")


class Cuda(Cards):
    """NVIDIA GPUs. GPUs in MIG mode are named and not counted: a process sees one instance only, so no group fits."""

    name = "cuda"
    vendor = "NVIDIA"
    torch_device = "cuda"
    backend = "nccl"
    native_dtype = "bf16"
    exclusive = False
    summary = "NVIDIA GPUs, one rank on each"
    variable = "CUDA_VISIBLE_DEVICES"

    def scan(self) -> Scan:
        found = self._scan()
        pipe = self._mps() if found.cards else None
        if pipe is None:
            return found
        note = f"MPS is on ({pipe}): other processes may compute on these GPUs at the same time"
        return replace(found, notes=(*found.notes, note))

    def identity(self) -> HardwareIdentity:
        """With whether MPS shares the GPUs: what is timed there may wait for others."""
        found = super().identity()
        return replace(found, facts={**found.facts, "mps": self._mps() is not None})

    def _mps(self) -> Path | None:
        """The control pipe of a running Multi-Process Service. Source: NVIDIA, "Multi-Process Service", 5.1."""
        told = os.environ.get("CUDA_MPS_PIPE_DIRECTORY")
        pipe = (Path(told) if told else self._root / "tmp/nvidia-mps") / "control"
        return pipe if pipe.exists() else None

    def _scan(self) -> Scan:
        notes: list[str] = []
        try:
            return Scan(nvml.cards(), "NVML (nvidia-ml-py)")
        except ToolFailed as error:
            notes.append(str(error))
        probe = _query(FIELDS)
        try:
            answer = run_tool(probe, self._timeout_s, unset=self.variable)
        except ToolFailed as error:
            return Scan((), " ".join(probe), (*notes, str(error)))
        rows, other = table(answer.text, FIELDS)
        cards = tuple(_card(row) for row in rows)
        # Where it knows GPUs and cannot ask one, the tool prints a sentence among the rows, or exits with an error.
        complaints = [line for line in (*other, answer.complaint) if line]
        return Scan(cards, " ".join(probe), tuple(complaints if cards else [*notes, *complaints]))

    def shown(self, cards: Sequence[Card]) -> Choice:
        """CUDA's rules: the order counts, a UUID may be cut short, the first name in vain ends the list."""
        value = os.environ.get(self.variable)
        if value is None or not cards:
            return Choice(tuple(cards))
        found: list[Card] = []
        note = ""
        for word in (word.strip() for word in value.split(",")):
            fits = [card for card in cards if _names(word, card)]
            if len(fits) != 1 or fits[0] in found:
                note = f"{self.variable}={value}: CUDA stops at {word!r}, which names no further card"
                break
            found.append(fits[0])
        return Choice(tuple(found), len(cards) - len(found), note)

    def environment(self, cards: Sequence[Card]) -> dict[str, str]:
        """Numbers, since DeepSpeed's launcher and vLLM read no UUIDs; in PCI order, which is that of the tools."""
        return {self.variable: ",".join(str(card.number) for card in cards), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}

    def lease(self, card: Card) -> str:
        return f"cuda:{card.uuid}/{card.number}" if card.uuid else f"cuda:{card.number}"

    def readings(self) -> list[Json] | None:
        try:
            return list(nvml.readings())
        except ToolFailed:
            pass
        for reason in REASONS:
            columns = (*READINGS, reason)
            try:
                answer = run_tool(_query(columns), self._timeout_s, unset=self.variable)
            except ToolFailed:
                return None
            rows, _ = table(answer.text, columns)
            if rows:
                return [_reading(row, reason) for row in rows]
        return None


def _query(columns: Sequence[str]) -> list[str]:
    return ["nvidia-smi", f"--query-gpu={','.join(columns)}", "--format=csv,noheader,nounits"]


def _names(word: str, card: Card) -> bool:
    """Whether a word of CUDA_VISIBLE_DEVICES means `card`."""
    return word == str(card.number) or (word.startswith("GPU-") and (card.uuid or "").startswith(word))


def _card(row: dict[str, str | None]) -> Card:
    problem, index = "", whole(row["index"])
    if index is None or row["uuid"] is None or row["memory.total"] is None:
        problem = "nvidia-smi cannot read it (lost or failed)"
    elif row["mig.mode.current"] == "Enabled":
        problem = nvml.MIG
    return Card(
        number=-1 if index is None else index,
        name=row["name"],
        memory_bytes=mebibytes(row["memory.total"]),
        driver=row["driver_version"],
        uuid=row["uuid"],
        bus=row["pci.bus_id"],
        problem=problem,
    )


def _reading(row: dict[str, str | None], reason: str) -> Json:
    mask = whole(row[reason], 16)
    reasons: list[Json] | None = None if mask is None else list(nvml.reasons(mask))
    return {
        "number": whole(row["index"]),
        "temperature_c": number(row["temperature.gpu"]),
        "power_w": number(row["power.draw"]),
        "sm_mhz": number(row["clocks.sm"]),
        "memory_mhz": number(row["clocks.mem"]),
        "utilization_percent": number(row["utilization.gpu"]),
        "memory_used_bytes": mebibytes(row["memory.used"]),
        "throttle_reasons": reasons,
    }
