"""The hardware of a record: what it truly is, and a hash of its class. Pure: no file, no network, no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Self

from pydantic import Field, StringConstraints, model_validator

from genqual import digest
from genqual.devices.base import HardwareIdentity
from genqual.records.base import Count, Facts, Name, Number, RecordPart, Sha256, Tally
from genqual.records.canonical import plain
from genqual.records.pseudonyms import Names

Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]

_CLASS = ("device", "class_id", "vendor", "model", "installed", "interconnect", "hypervisor")


class System(RecordPart):
    """The hardware: its mark, `class_id` without any host name, and how many places were `used` (cards, CPU cores).

    `model` is the card's, or the CPU's where the cores are the device; `installed` counts what the host has of them
    and `memory_bytes` is that of one card, or the host's. `peak_rates` are per second and device, by unit of work
    (`bf16_flop`, `read_bytes`), and `peak_source` says where from. `clocks_mhz` are limits, not readings. `host`, and
    every serial number in `facts`, is hashed by default. `class_sha256` is of what makes two hosts the same class.
    """

    device: Name
    class_id: Name
    used: Count
    vendor: Name | None = None
    model: Name | None = None
    installed: Count | None = None
    memory_bytes: Tally | None = None
    peak_rates: dict[str, Number] | None = None
    peak_source: Name | None = None
    interconnect: Name | None = None
    power_cap_w: Number | None = None
    clocks_mhz: dict[str, Number] | None = None
    driver: Name | None = None
    firmware: Name | None = None
    kernel: Name | None = None
    host: Name | None = None
    hypervisor: Name | None = None
    container_digest: Digest | None = None
    class_sha256: Sha256 | None = None
    facts: Facts = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, data: Any) -> Any:
        """Fill from `facts` what has a field of its own; early records, and others' devices, have it only there."""
        if not isinstance(data, Mapping):
            return data
        facts = data.get("facts") or {}
        given = {name: value for name, value in data.items() if value is not None}
        derived = _of_facts(facts) if isinstance(facts, Mapping) else {}
        found = {**{name: value for name, value in derived.items() if value}, **given}
        actual = class_hash(found)
        if found.setdefault("class_sha256", actual) != actual:
            raise ValueError(f"class_sha256 is not the hash of {', '.join(_CLASS)}: leave it out, or hash those")
        return found

    @classmethod
    def of(
        cls,
        identity: HardwareIdentity,
        used: int,
        *,
        names: Names | None = None,
        container_digest: str | None = None,
    ) -> Self:
        """What a device says of itself, its names as `names` keeps them."""
        names = names or Names()
        return cls.model_validate(
            {
                "device": identity.device,
                "class_id": identity.class_id,
                "used": used,
                "host": names.name(names.host) or None,
                "container_digest": container_digest,
                "facts": names.facts(dict(identity.facts)),
            }
        )

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """As every part's; the hash of the class follows."""
        return super().model_copy(update={"class_sha256": None, **(update or {})}, deep=deep)

    def with_peaks(self, rates: Mapping[str, float], source: str) -> Self:
        """The same system, with what a roofline probe measured on one device."""
        return self.model_copy(update={"peak_rates": dict(rates), "peak_source": source}) if rates else self


def class_hash(fields: Mapping[str, Any]) -> str:
    """SHA-256 over the class of the hardware: no host name, no serial number, no version of software."""
    return digest.of_json({"class": "genqual-class/1", **{name: plain(fields.get(name), name) for name in _CLASS}})


def _of_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    cards = [card for card in facts.get("cards") or () if isinstance(card, Mapping)]
    return {
        **(_of_cards(facts, cards) if cards else _of_cpu(facts)),
        **{name: facts.get(name) for name in ("interconnect", "kernel", "hypervisor")},
    }


def _of_cards(facts: Mapping[str, Any], cards: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    hidden, broken = (facts.get(name) or 0 for name in ("cards_hidden", "cards_unusable"))
    return {
        "vendor": facts.get("vendor"),
        "model": _joined(card.get("name") for card in cards),
        "installed": len(cards) + hidden + broken,
        "memory_bytes": _least(card.get("memory_bytes") for card in cards),
        "driver": _joined(facts.get("drivers") or ()),
        "firmware": _joined(card.get("firmware") for card in cards),
        "power_cap_w": _least(card.get("power_cap_w") for card in cards),
        "clocks_mhz": next((card["clocks_mhz"] for card in cards if card.get("clocks_mhz")), None),
    }


def _of_cpu(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "vendor": facts.get("vendor") or facts.get("cpu_vendor"),
        "model": facts.get("cpu_brand"),
        "installed": facts.get("cores"),
        "driver": facts.get("frequency_driver"),
        "firmware": facts.get("microcode"),
        **{name: facts.get(name) for name in ("memory_bytes", "power_cap_w", "clocks_mhz")},
    }


def _joined(words: Iterable[Any]) -> str | None:
    """Unlike words in one, in order: a host with two kinds of cards says so."""
    return " + ".join(sorted({str(word) for word in words if word})) or None


def _least(sizes: Iterable[Any]) -> Any:
    return min((size for size in sizes if size is not None), default=None)
