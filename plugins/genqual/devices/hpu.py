"""Intel Gaudi as a device. Asks hl-smi, the driver's /sys and HLML, none of which acquires a card; imports no torch.

`find_spec("habana_frameworks")` is no probe: the namespace comes with packages that hold no driver.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from genqual.cases import Json
from genqual.devices import hlml, simulated
from genqual.devices.base import HardwareIdentity
from genqual.devices.cards import Card, Cards, Choice, Scan
from genqual.devices.files import read, whole
from genqual.devices.tool import ToolFailed, mebibytes, number, run_tool, table
from genqual.errors import BadInput

FIELDS = ("index", "module_id", "name", "driver_version", "memory.total", "bus_id", "uuid")
READINGS = ("module_id", "memory.used", "utilization.aip", "temperature.aip", "power.draw")
VIOLATIONS = ("stats.violation.power", "stats.violation.thermal")


class Hpu(Cards):
    """Gaudi cards, numbered by module id: it survives a reboot, and HABANA_VISIBLE_MODULES wants it."""

    name = "hpu"
    vendor = "Intel Habana"
    torch_device = "hpu"
    backend = "hccl"
    native_dtype = "bf16"
    summary = "Intel Gaudi, one rank on each card"
    variable = "HABANA_VISIBLE_MODULES"

    @property
    def exclusive(self) -> bool:
        """True of a card; one that is not there serves any number, and no group is loaded anew to give it free."""
        return not simulated.folder()

    def scan(self) -> Scan:
        if simulated.folder():
            return simulated.scan()
        probe = _query(FIELDS)
        notes: list[str] = []
        cards: tuple[Card, ...] = ()
        try:
            answer = run_tool(probe, self._timeout_s, unset=self.variable)
        except ToolFailed as error:
            notes.append(str(error))
            try:
                cards, probe = hlml.cards(self._root), ["HLML (habana-pyhlml)"]
            except ToolFailed as reason:
                notes.append(str(reason))
        else:
            rows, other = table(answer.text, FIELDS)
            cards = tuple(_card(row) for row in rows)
            notes += [line for line in (*other, answer.complaint) if line]
        return Scan(self._judged(cards), " ".join(probe), tuple(notes))

    def identity(self) -> HardwareIdentity:
        found = super().identity()
        if not simulated.folder():
            return found
        return HardwareIdentity(self.name, simulated.PREFIX + found.class_id, {**found.facts, "simulated": True})

    def _judged(self, cards: Sequence[Card]) -> tuple[Card, ...]:
        """`cards` by module, with the driver's own verdict on each, and the cards that only the driver knows."""
        states = dict(_driver_states(self._root))
        judged = []
        for card in cards:
            module, status = states.pop(_bus(card.bus or ""), (None, ""))
            if card.problem and module is not None:
                card = replace(card, number=module)
            if status and status.lower() != "operational":
                card = replace(card, problem=f"the driver says {status!r}")
            judged.append(card)
        for bus, (module, status) in states.items():
            problem = f"the driver says {status!r}, and no tool lists it"
            judged.append(Card(-1 if module is None else module, None, bus=bus, problem=problem))
        return tuple(sorted(judged, key=lambda card: (card.number, card.bus or "")))

    def shown(self, cards: Sequence[Card]) -> Choice:
        value = os.environ.get(self.variable, "").strip()
        if value.lower() in {"", "all"}:
            return Choice(tuple(cards))
        words = [word.strip() for word in value.split(",") if word.strip()]
        found = tuple(card for card in cards if str(card.number) in words)
        vain = [word for word in words if word not in {str(card.number) for card in found}]
        note = f"{self.variable}={value} names modules that are not here: {', '.join(vain)}" if vain else ""
        return Choice(found, len(cards) - len(found), note)

    def kind(self, card: Card) -> str:
        """With the generation, which the board's name hides: HL-205 is Gaudi, HL-225 Gaudi 2, HL-325 Gaudi 3."""
        model = super().kind(card)
        for prefix, generation in (("hl-20", "gaudi"), ("hl-2", "gaudi2"), ("hl-3", "gaudi3")):
            if model.startswith(prefix):
                return f"{generation}-{model}"
        return model

    def choose(self, cards: Sequence[Card], ranks: int, taken: frozenset[str]) -> list[Card]:
        """For 2, 4 or 8 ranks an aligned block of modules (0,1 or 4,5,6,7), the only ones Intel supports.

        Virtual machines may hold other modules (1,2,4,5); there any cards have to do.
        Source: docs.habana.ai, "Multiple Workloads on a Single Docker".
        """
        if ranks in {2, 4, 8}:
            blocks: dict[int, list[Card]] = {}
            for card in cards:
                blocks.setdefault(card.number // ranks, []).append(card)
            whole_blocks = [block for block in blocks.values() if len(block) == ranks]
            free = [block for block in whole_blocks if taken.isdisjoint(self.lease(card) for card in block)]
            if free:
                return free[0]
            scattered = super().choose(cards, ranks, taken)
            if whole_blocks and not taken.isdisjoint(self.lease(card) for card in scattered):
                return whole_blocks[0]
            return scattered
        return super().choose(cards, ranks, taken)

    def environment(self, cards: Sequence[Card]) -> dict[str, str]:
        """PT_HPU_LAZY_MODE is always set, since its default changed in Synapse 1.21; lazy unless the caller says 0.

        Raises BadInput when the caller's own value is neither 0 nor 1.
        """
        lazy = os.environ.get("PT_HPU_LAZY_MODE", "1")
        if lazy not in {"0", "1"}:
            raise BadInput(f"PT_HPU_LAZY_MODE={lazy}: set 1 (lazy), 0 (eager and torch.compile), or leave it unset")
        folder = simulated.folder()
        return {
            self.variable: ",".join(str(card.number) for card in cards),
            "PT_HPU_LAZY_MODE": lazy,
            **(simulated.environment(folder) if folder else {}),
        }

    def readings(self) -> list[Json] | None:
        if simulated.folder():
            return None
        # Older tools refuse a query that names a field they do not know.
        for columns in ((*READINGS, *VIOLATIONS), READINGS):
            try:
                answer = run_tool(_query(columns), self._timeout_s, unset=self.variable)
            except ToolFailed:
                return None
            rows, _ = table(answer.text, columns)
            if rows:
                return [_reading(row) for row in rows]
        return None


def _query(columns: Sequence[str]) -> list[str]:
    return ["hl-smi", f"--query-aip={','.join(columns)}", "--format=csv,noheader,nounits"]


def _card(row: dict[str, str | None]) -> Card:
    module = whole(row["module_id"])
    unknown = [name for name in ("module_id", "name", "memory.total") if row[name] is None]
    return Card(
        number=-1 if module is None else module,
        name=row["name"],
        memory_bytes=mebibytes(row["memory.total"]),
        driver=row["driver_version"],
        uuid=row["uuid"],
        bus=row["bus_id"],
        problem=f"hl-smi cannot read its {', '.join(unknown)}" if unknown else "",
        more={"index": whole(row["index"])},
    )


def _reading(row: dict[str, str | None]) -> Json:
    return {
        "number": whole(row["module_id"]),
        "memory_used_bytes": mebibytes(row["memory.used"]),
        "utilization_percent": number(row["utilization.aip"]),
        "temperature_c": number(row["temperature.aip"]),
        "power_w": number(row["power.draw"]),
        "violation_power": row.get("stats.violation.power"),
        "violation_thermal": row.get("stats.violation.thermal"),
    }


def _bus(address: str) -> str:
    """A PCI address in one spelling: some tools write the domain with eight digits."""
    return address.lower()[-len("0000:00:00.0") :]


def _driver_states(root: Path) -> Iterator[tuple[str, tuple[int | None, str]]]:
    """PCI address -> (module, status) as the driver has them.

    Other drivers list their devices under /sys/class/accel as well; only Gaudi's has both files.
    Source: Linux, Documentation/ABI/testing/sysfs-driver-habanalabs.
    """
    places = (*root.glob("sys/class/accel/accel*/device"), *root.glob("sys/class/habanalabs/hl[0-9]*"))
    for directory in sorted(places):
        bus, status = read(directory / "pci_addr"), read(directory / "status")
        if bus and status:
            yield _bus(bus), (whole(read(directory / "module_id")), status)
