"""Counters that are reset, wrap, vanish or cannot be read, and logs with holes: never a zero, and never a pass."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from genqual.devices.tool import ToolFailed
from genqual.health.checks.counters import Window
from genqual.health.counters import kernel_log
from genqual.health.finding import Outcome, verdict_of
from genqual.session import hardware
from tests.health.hardware_events import Strike, card_says, logged, told, written
from tests.health.stand_ins import (
    CARDS,
    GROUP,
    MC,
    Cards,
    aer,
    endpoint,
    gaudi,
    interrupts,
    module_entity,
    nvidia,
)


def fails(card: int, function: str, why: str = "GPU is lost") -> Strike:
    """From now on a card's function raises; "" is every function of it."""
    return lambda root, cards: cards.fails.update({(card, function): why})


def without(name: str) -> Strike:
    """The folder or file is gone, as where a driver was unloaded or a device left the bus."""

    def strike(root: Path, cards: Cards) -> None:
        path = root / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return strike


def fewer(root: Path, cards: Cards) -> None:
    cards.number = CARDS - 1


LAST = nvidia(CARDS - 1)
LOST: dict[str, tuple[str, set[str], Strike]] = {
    "a card is no longer counted": ("nvml", {LAST, *(f"{LAST} nvlink {link}" for link in range(3))}, fewer),
    "a card answers nothing": ("nvml", {nvidia(1), *(f"{nvidia(1)} nvlink {link}" for link in range(3))}, fails(1, "")),
    "a card has no handle": ("nvml", {nvidia(0), *(f"{nvidia(0)} nvlink {link}" for link in range(3))},
                             fails(0, "nvmlDeviceGetHandleByIndex")),
    "one counter of a card": ("nvml", {nvidia(2)}, fails(2, "nvmlDeviceGetTotalEccErrors", "Unknown Error")),
    "a card's counter begins again": ("nvml", {nvidia(3)}, card_says(3, "ecc_uncorrected", 0)),
    "a Gaudi answers nothing": ("hlml", {gaudi(1)}, fails(51, "")),
    "a Gaudi's counter begins again": ("hlml", {gaudi(2)}, card_says(52, "ecc_corrected", 1)),
    "a module's count falls": ("edac", {module_entity(1, 0)}, written(f"{MC}/mc1/dimm0/dimm_ce_count", "2\n")),
    "a module's count wraps": ("edac", {module_entity(1, 1)}, written(f"{MC}/mc1/dimm1/dimm_ue_count", "0\n")),
    "a module leaves": ("edac", {module_entity(2, 1)}, without(f"{MC}/mc2/dimm1")),
    "a controller leaves": ("edac", {"mc3", module_entity(3, 0), module_entity(3, 1)}, without(f"{MC}/mc3")),
    "a count is no longer readable": ("edac", {module_entity(0, 0)}, without(f"{MC}/mc0/dimm0/dimm_ue_count")),
    "a count is no number": ("edac", {module_entity(0, 0)}, written(f"{MC}/mc0/dimm0/dimm_ue_count", "-\n")),
    "EDAC is unloaded": ("edac", {"host"}, without(MC)),
    "a core is taken off": ("interrupts", {"cpu5"}, written("proc/interrupts", interrupts(without=5))),
    "a row begins again": ("interrupts", {"cpu2"}, written("proc/interrupts", interrupts({"MCE": (2, 0)}))),
    "a core's throttling": ("throttle", {"cpu6"}, without("sys/devices/system/cpu/cpu6/thermal_throttle")),
    "a device leaves the bus": ("aer", {f"PCI:{endpoint(2)}"}, without(f"sys/bus/pci/devices/{endpoint(2)}")),
    "a device's errors begin again": ("aer", {f"PCI:{endpoint(1)}"},
                                      written(f"sys/bus/pci/devices/{endpoint(1)}/aer_dev_fatal",
                                              aer("aer_dev_fatal").replace("2", "0"))),
    "a link is unknown": ("pcie_link", {f"PCI:{endpoint(3)}"},
                          without(f"sys/bus/pci/devices/{endpoint(3)}/current_link_width")),
    "a group is gone": ("oom", {"host"}, without(f"{GROUP}/memory.events")),
}  # fmt: skip
"""What is lost in the window: (check, entities of which nothing may be said, how)."""


@pytest.mark.parametrize("what", LOST)
def test_what_is_lost_in_the_window_is_unknown(root: Path, cards: Cards, what: str) -> None:
    check, entities, strike = LOST[what]
    found = [one for one in told(root, cards, strike) if one.outcome is Outcome.UNKNOWN]
    assert {one.check for one in found} in ({check}, {check, "pcie_link"})
    assert {one.entity for one in found} == entities
    assert all(one.signal is None and one.evidence for one in found)
    assert verdict_of(found, required=[], node="n", hardware_class="c", level="1").verdict == "unfit"
    # Of what is lost nothing is known: it turns no test's verdict into one on hardware.
    assert not hardware.fatal(found)


def test_a_reset_is_seen_although_the_count_stands_where_it_stood(root: Path, cards: Cards) -> None:
    """Somebody wrote to `reset_counters`, and as many errors came again."""
    found = [one for one in told(root, cards, written(f"{MC}/mc2/seconds_since_reset", "3\n")) if one.evidence]
    found = [one for one in found if one.outcome is Outcome.UNKNOWN]
    assert {one.entity for one in found} == {"mc2", module_entity(2, 0), module_entity(2, 1)}
    later = told(root, cards, written(f"{MC}/mc2/seconds_since_reset", "60\n"))
    assert not [one for one in later if one.outcome is Outcome.UNKNOWN], "time goes on"


@pytest.mark.parametrize("library", ["pynvml", "pyhlml"])
def test_a_driver_that_dies_in_the_window_is_unknown(root: Path, cards: Cards, library: str) -> None:
    binding = sys.modules[library]
    error = binding.NVMLError if library == "pynvml" else binding.HLMLError
    begin = "nvmlInit" if library == "pynvml" else "hlmlInit"

    def raises() -> None:
        raise error("Driver Not Loaded")

    found = told(root, cards, lambda root, cards: setattr(binding, begin, raises))
    (one,) = [one for one in found if one.outcome is Outcome.UNKNOWN]
    assert one.check == ("nvml" if library == "pynvml" else "hlml")
    assert "Driver Not Loaded" in one.evidence
    setattr(binding, begin, raises)
    again = [one for one in told(root, cards) if one.check == ("nvml" if library == "pynvml" else "hlml")]
    assert [one.outcome for one in again] == [Outcome.UNAVAILABLE], "a host that never had it cannot tell"


def test_of_two_kinds_of_cards_each_tells_what_it_can(root: Path, cards: Cards) -> None:
    """Card 0 has no ECC, as consumers' cards: that is said of it, and an error of card 1 is not lost."""
    cards.fails[0, "nvmlDeviceGetTotalEccErrors"] = "Not Supported"
    cards.fails[0, "nvmlDeviceGetRemappedRows"] = "Not Supported"
    cards.fails[0, "nvmlDeviceGetRetiredPages"] = "Not Supported"
    found = [one for one in told(root, cards, card_says(1, "ecc_uncorrected")) if one.check == "nvml"]
    assert {(one.entity, one.outcome) for one in found} == {
        (nvidia(0), Outcome.UNAVAILABLE), (nvidia(1), Outcome.BAD), ("host", Outcome.OK),
    }  # fmt: skip
    (silent,) = [one for one in found if one.entity == nvidia(0)]
    assert silent.signal is None
    assert "ecc_uncorrected: Not Supported" in silent.evidence
    assert "rows_remapped_uncorrected: Not Supported" in silent.evidence


def test_a_controller_without_a_readable_count_says_so(root: Path, cards: Cards) -> None:
    for name in ("ue_count", "ue_noinfo_count"):
        without(f"{MC}/mc1/{name}")(root, cards)
    (one,) = [one for one in told(root, cards) if (one.check, one.entity) == ("edac", "mc1")]
    assert one.outcome is Outcome.UNAVAILABLE
    assert one.signal is None
    assert "ue_count is not readable" in one.evidence


def test_rows_and_channels_stand_for_modules_where_a_driver_shows_no_more(root: Path, cards: Cards) -> None:
    for name in ("dimm0", "dimm1", "ce_noinfo_count", "ue_noinfo_count"):
        without(f"{MC}/mc0/{name}")(root, cards)
    row = f"{MC}/mc0/csrow1"
    for name, text in (("ue_count", "0"), ("ce_count", "0"), ("ch0_ce_count", "0"), ("ch1_ce_count", "0"),
                       ("ch0_dimm_label", "DIMM_A1"), ("ch1_dimm_label", "")):  # fmt: skip
        written(f"{row}/{name}", f"{text}\n")(root, cards)
    strikes = (
        written(f"{row}/ue_count", "1"),
        written(f"{row}/ch0_ce_count", "2"),
        written(f"{row}/ch1_ce_count", "1"),
    )
    found = {one.entity: str(one.severity) for one in told(root, cards, *strikes) if one.component}
    assert found == {"mc0 csrow1": "fatal", "mc0 csrow1 DIMM_A1": "warning", "mc0 csrow1 ch1": "warning"}


def test_modules_of_one_label_are_told_apart(root: Path, cards: Cards) -> None:
    for dimm in range(2):
        written(f"{MC}/mc0/dimm{dimm}/dimm_label", "DIMM\n")(root, cards)
    for dimm in range(2):
        struck = written(f"{MC}/mc0/dimm{dimm}/dimm_ue_count", "2\n")
        assert [one.entity for one in told(root, cards, struck) if one.component] == [f"mc0 DIMM dimm{dimm}"]


def test_a_module_that_leaves_does_not_hand_its_counts_to_its_namesake(root: Path, cards: Cards) -> None:
    """An older count of the one that stays would look like a new uncorrected error of the one that left."""
    for dimm in range(2):
        written(f"{MC}/mc0/dimm{dimm}/dimm_label", "DIMM\n")(root, cards)
    written(f"{MC}/mc0/dimm1/dimm_ue_count", "7\n")(root, cards)
    found = told(root, cards, without(f"{MC}/mc0/dimm0"))
    assert not [one for one in found if one.component]
    assert "mc0 DIMM dimm0" in [one.entity for one in found if one.outcome is Outcome.UNKNOWN]


def test_a_state_that_ends_in_the_window_is_no_event_and_no_reset(root: Path, cards: Cards) -> None:
    cards.counts |= {(0, "pending"): 1, (1, "reasons"): 0x48, (2, "link 1 down"): 1}
    written(f"sys/bus/pci/devices/{endpoint(0)}/current_link_width", "8\n")(root, cards)

    def ends(root: Path, cards: Cards) -> None:
        cards.counts |= {(0, "pending"): 0, (1, "reasons"): 0, (2, "link 1 down"): 0}

    wide = written(f"sys/bus/pci/devices/{endpoint(0)}/current_link_width", "16\n")
    found = told(root, cards, ends, wide)
    assert not [one for one in found if one.component or one.outcome is Outcome.UNKNOWN]


def record(number: int, text: str = "harmless") -> str:
    return f"6,{number},7000,-;{text}\n"


HOLES = {
    "overwritten from the beginning": record(900),
    "overwritten in the middle": record(100) + record(101) + record(150),
    "begun anew": record(3),
    "emptied": "",
}


@pytest.mark.parametrize("what", HOLES)
def test_a_log_with_a_hole_in_the_window_is_unknown(root: Path, cards: Cards, what: str) -> None:
    (one,) = [one for one in told(root, cards, written("dev/kmsg", HOLES[what])) if one.check == "kernel_log"]
    assert one.outcome is Outcome.UNKNOWN
    assert one.signal is None


def test_a_log_that_lost_what_came_before_the_window_is_whole(root: Path, cards: Cards) -> None:
    """The ring goes on and forgets; of the window nothing is missing."""
    (one,) = [one for one in told(root, cards, written("dev/kmsg", record(101))) if one.check == "kernel_log"]
    assert one.outcome is Outcome.OK


def test_a_log_that_is_no_longer_readable_is_unknown_and_one_that_never_was_is_unavailable(
    root: Path, cards: Cards
) -> None:
    (one,) = [one for one in told(root, cards, without("dev/kmsg")) if one.check == "kernel_log"]
    assert one.outcome is Outcome.UNKNOWN
    (one,) = [one for one in told(root, cards) if one.check == "kernel_log"]
    assert one.outcome is Outcome.UNAVAILABLE


def test_long_records_and_many_are_read_whole(root: Path) -> None:
    start = kernel_log.mark(root / "dev/kmsg")
    line = "EDAC MC0: 1 UE memory read error on DIMM_A1 (channel:0 " + "x" * 700 + ")"
    logged(*[line] * 40)(root, Cards())
    found = kernel_log.since(start, root / "dev/kmsg")
    assert not isinstance(found, str)
    assert [event.text for event in found] == [line] * 40


def test_a_host_without_counters_has_none_and_no_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for binding in ("pynvml", "pyhlml"):
        monkeypatch.setitem(sys.modules, binding, None)
    found = told(tmp_path, Cards())
    assert {one.outcome for one in found} == {Outcome.UNAVAILABLE}
    assert all(one.signal is None and one.evidence for one in found)


def test_a_window_that_another_process_began_says_the_same(root: Path, cards: Cards) -> None:
    """As after a kill: what was told when it began goes through a file."""
    cards.fails[0, "nvmlDeviceGetTotalEccErrors"] = "Not Supported"
    window = Window.begin(root)
    other = Window.of_json(json.loads(json.dumps(window.as_json())))
    for strike in (card_says(1, "failed", 1), written(f"{MC}/mc0/seconds_since_reset", "1\n"), fails(2, ""),
                   logged("Memory failure: 0x1f00: unhandlable page.")):  # fmt: skip
        strike(root, cards)
    found, again = ([one for one in each.end(root) if one.check != "energy"] for each in (window, other))
    assert again == found
    assert {one.outcome for one in found} == {Outcome.OK, Outcome.BAD, Outcome.UNKNOWN, Outcome.UNAVAILABLE}


def test_no_vendor_s_library_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from genqual.devices import nvml_errors

    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(ToolFailed, match="pynvml is not installed"):
        nvml_errors.errors()
