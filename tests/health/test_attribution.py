"""Injected hardware events, one at a time: each is told of its own device, with its severity, and of no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from genqual.health.counters.kernel_events import APPLICATION_XIDS
from genqual.health.finding import Finding, Outcome, Severity, verdict_of
from genqual.health.outcomes import table
from genqual.session import hardware
from tests.health.hardware_events import EVENTS, HARMLESS, Event, logged, told, written
from tests.health.stand_ins import CARDS, Cards, aer, bound, endpoint, host, nvidia

# As NVIDIA's catalogue has them: what an application's own mistake or end raises. Stated here a second time.
XIDS_OF_APPLICATIONS = (13, 31, 43, 45, 68, 69, 109, 110)

NAMED: dict[str, list[Event]] = {}
for one_event in EVENTS:
    NAMED.setdefault(one_event.name, []).append(one_event)


def verdict(found: list[Finding]) -> str:
    return verdict_of(found, required=[], node="n", hardware_class="c", level="1").verdict


def test_there_are_hundreds_and_no_two_alike() -> None:
    assert len({(event.name, event.entity) for event in EVENTS}) == len(EVENTS) >= 300
    assert {event.check for event in EVENTS} == {
        "edac", "interrupts", "throttle", "aer", "pcie_link", "oom", "nvml", "hlml", "kernel_log",
    }  # fmt: skip


@pytest.mark.parametrize("name", NAMED)
def test_an_event_is_told_of_its_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """On each device that it can happen to, in a window of its own on a host of its own."""
    for number, event in enumerate(NAMED[name]):
        is_told(host(tmp_path / str(number)), bound(monkeypatch), event)


def is_told(root: Path, cards: Cards, event: Event) -> None:
    window = told(root, cards, event.strike)
    found = [one for one in window if one.component]
    assert [(one.check, one.entity, one.component) for one in found] == [(event.check, event.entity, event.component)]
    (one,) = found
    assert one.action in {meaning.action for name, meaning in table().items() if name.startswith(f"{event.check}.")}
    assert one.evidence
    # A test within this window ends as HARDWARE, and only then; the node's verdict follows from the same finding.
    assert bool(hardware.fatal(window)) is (event.effect == "hardware"), one
    assert (one.severity is Severity.FATAL) is (event.effect == "hardware"), one
    assert verdict(found) == ("fit" if event.effect == "told" else "unfit")
    assert {other.outcome for other in window if other is not one} <= {Outcome.OK, Outcome.UNAVAILABLE}


@pytest.mark.parametrize("name", NAMED)
def test_an_event_before_the_window_is_not_the_window_s(root: Path, cards: Cards, name: str) -> None:
    NAMED[name][-1].strike(root, cards)
    found = [one for one in told(root, cards) if one.component or one.outcome is Outcome.UNKNOWN]
    assert not found


def test_every_event_at_once_is_told_of_every_device(root: Path, cards: Cards) -> None:
    """In the log, where none overwrites another. A device's own line after its port's message is the same error."""
    logs = [event for event in EVENTS if event.check == "kernel_log" and event.name != "aer-log-unannounced"]
    found = [(one.check, one.entity) for one in told(root, cards, *(event.strike for event in logs)) if one.component]
    assert sorted(found) == sorted((event.check, event.entity) for event in logs)


def test_a_quiet_window_says_nothing_and_old_errors_are_not_its_own(root: Path, cards: Cards) -> None:
    found = told(root, cards)
    assert not [one for one in found if one.component], found
    sources = ("edac", "interrupts", "throttle", "aer", "pcie_link", "oom", "nvml", "hlml", "kernel_log")
    assert {one.check: str(one.outcome) for one in found} == {
        **dict.fromkeys(sources, "ok"), "energy": "unavailable",
    }  # fmt: skip


@pytest.mark.parametrize("number", XIDS_OF_APPLICATIONS)
@pytest.mark.parametrize("form", ["PCI:0000:3b:00", "PCI:0000:3e:00 GPU-I:01 GPU-CI:02", "0000:3c:00"])
def test_an_application_s_xid_changes_no_verdict(root: Path, cards: Cards, number: int, form: str) -> None:
    assert set(XIDS_OF_APPLICATIONS) == APPLICATION_XIDS
    line = f"NVRM: Xid ({form}): {number}, pid=77, name=python, Graphics exception: fatal, uncorrected"
    assert not [one for one in told(root, cards, logged(line)) if one.component or one.outcome is Outcome.BAD]


@pytest.mark.parametrize("name", HARMLESS)
def test_a_line_that_only_looks_like_hardware_is_no_event(root: Path, cards: Cards, name: str) -> None:
    assert not [one for one in told(root, cards, logged(HARMLESS[name])) if one.component]


def test_one_error_seen_by_several_is_told_of_what_each_saw(root: Path, cards: Cards) -> None:
    """An uncorrectable error of a module: its counter, the kernel's line, the page, the core that took it."""
    strikes = [
        next(one.strike for one in EVENTS if one.name == name) for name in ("edac-ue", "edac-log-ue", "page", "irq-MCE")
    ]
    found = {(one.check, one.entity, one.component) for one in told(root, cards, *strikes) if one.component}
    assert found == {
        ("edac", "mc0 CPU_SrcID#0_MC#0_Chan#0_DIMM#0", "memory"),
        ("kernel_log", "mc0 CPU_SrcID#0_MC#0_Chan#0_DIMM#1", "memory"),
        ("kernel_log", "page 0x40fa6", "memory"),
        ("interrupts", "cpu0", "processor"),
    }


@pytest.mark.parametrize(
    ("reasons", "told_of"),
    [(("UnsupReq", "ACSViol"), {"aer.refused"}), (("UnsupReq", "CmpltTO"), {"aer.refused", "aer.nonfatal"})],
    ids=["both refused", "one lost"],
)
def test_one_message_with_two_reasons(root: Path, cards: Cards, reasons: tuple[str, ...], told_of: set[str]) -> None:
    """The device counts one message and two reasons: neither hides the other, and nothing looks like a reset."""
    file = "aer_dev_nonfatal"
    struck = written(f"sys/bus/pci/devices/{endpoint(1)}/{file}", aer(file, *reasons))
    found = [one for one in told(root, cards, struck) if one.outcome not in (Outcome.OK, Outcome.UNAVAILABLE)]
    assert {one.action for one in found} == {table()[name].action for name in told_of}
    assert {one.entity for one in found} == {f"PCI:{endpoint(1)}"}


def test_one_card_has_one_name_whoever_tells_of_it(root: Path, cards: Cards) -> None:
    def strike(root: Path, cards: Cards) -> None:
        cards.counts[2, "ecc_uncorrected"] = 4

    line = f"NVRM: Xid (PCI:0000:{0x3B + 2:02x}:00): 48, pid=1, An uncorrectable double bit error"
    found = [one for one in told(root, cards, strike, logged(line)) if one.component]
    assert {one.check for one in found} == {"nvml", "kernel_log"}
    assert {one.entity for one in found} == {nvidia(2)}


def test_a_record_whose_head_came_before_the_window_is_not_the_window_s(root: Path, cards: Cards) -> None:
    lines = ("event severity: fatal", " Error 0, type: fatal", "  section_type: memory error")
    strike = logged(*(f"{{1}}[Hardware Error]: {line}" for line in lines))
    assert not [one for one in told(root, cards, strike) if one.component]


def test_records_of_the_firmware_that_interleave_are_kept_apart(root: Path, cards: Cards) -> None:
    one, two = (
        [f"{{{number}}}[Hardware Error]: {line}" for line in (
            "Hardware error from APEI Generic Hardware Error Source: 1", f"event severity: {severity}",
            f" Error 0, type: {severity}", "  section_type: memory error", f"  DIMM location: Node0 DIMM_{number}")]
        for number, severity in ((1, "corrected"), (2, "fatal"))
    )  # fmt: skip
    mixed = [line for pair in zip(one, two, strict=True) for line in pair]
    found = [one for one in told(root, cards, logged(*mixed)) if one.component]
    assert [(one.entity, str(one.severity)) for one in found] == [
        ("Node0 DIMM_1", "warning"), ("Node0 DIMM_2", "fatal"),
    ]  # fmt: skip


@pytest.mark.parametrize(("limit", "said"), [(262_143_328_850, 2.5), (1_000, None)], ids=["long", "wraps at once"])
def test_energy_of_a_window_or_why_there_is_none(root: Path, cards: Cards, limit: int, said: float | None) -> None:
    place = "sys/class/powercap/intel-rapl:0"
    for name, text in (("name", "package-0"), ("energy_uj", "100"), ("max_energy_range_uj", str(limit))):
        written(f"{place}/{name}", text)(root, cards)
    (one,) = [one for one in told(root, cards, written(f"{place}/energy_uj", "2500100")) if one.check == "energy"]
    assert one.signal == (pytest.approx(said) if said else None)
    assert one.outcome is (Outcome.OK if said else Outcome.UNAVAILABLE), one


def test_cards_before_ampere_retire_pages(root: Path, cards: Cards) -> None:
    cards.fails |= {(card, "nvmlDeviceGetRemappedRows"): "Not Supported" for card in range(CARDS)}

    def strike(root: Path, cards: Cards) -> None:
        cards.counts |= {(1, "pages 1"): 4, (2, "pages 0"): 4, (3, "pages pending"): 1}

    found = {one.entity: str(one.severity) for one in told(root, cards, strike) if one.component}
    assert found == {nvidia(1): "fatal", nvidia(2): "warning", nvidia(3): "degraded"}
