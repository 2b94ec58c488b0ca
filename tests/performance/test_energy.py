"""Joules of a window: two sources that must agree, one that says it is alone, and what leaves no number."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from genqual.cases import Case, Workload
from genqual.devices.base import Placement
from genqual.devices.energy import Reading, source_of
from genqual.devices.sampling import sampled
from genqual.devices.tool import ToolFailed
from genqual.errors import OutOfMemory
from genqual.metrics.compute import compute
from genqual.metrics.energy import Used, every_s, used
from genqual.metrics.measure import measure
from genqual.ranks.group_spec import plan
from genqual.session.energy_window import EnergyWindow, energy_source
from tests.health.stand_ins import bound, put
from tests.here import CPU
from tests.performance.runs import rank, run
from tests.performance.test_launches import ROWS, Group, answers
from tests.performance.test_launches import WORKLOAD as TWO

MODULES = 50  # the first Gaudi of the stand-ins
WRAP = 262_143.32885


def series(
    *, seconds: float, watts: float, told: float = 1.0, every: float = 0.1, counter: bool = True, sensor: bool = True
) -> list[tuple[float, Reading]]:
    """A card that draws `watts`, whose sensor says `told` times that."""
    times = [every * step for step in range(round(seconds / every) + 1)]
    return [
        (at, Reading({"card 0": 5.0 + watts * at} if counter else {}, {"card 0": watts * told} if sensor else {}))
        for at in times
    ]


def rapl(values: Sequence[float], every: float = 10.0) -> list[tuple[float, Reading]]:
    return [(every * at, Reading({"package-0": value}, {}, {"package-0": WRAP})) for at, value in enumerate(values)]


@pytest.mark.parametrize(
    ("samples", "joules", "words"),
    [
        (series(seconds=2.0, watts=300.0), 600.0, "two sources agree"),
        (series(seconds=2.0, watts=300.0, told=1.019), 600.0, "two sources agree"),
        (series(seconds=2.0, watts=300.0, told=1.021), None, "2.1% apart; at most 2%"),
        (series(seconds=2.0, watts=300.0, told=0.5), None, "50.0% apart"),
        (series(seconds=20.0, watts=300.0, sensor=False), 6000.0, "one source: counter, not confirmed"),
        (series(seconds=20.0, watts=300.0, counter=False), 6000.0, "one source: sampled power, not confirmed"),
        (series(seconds=9.0, watts=300.0, sensor=False), None, "9.00 s with one source; below 10 s"),
        (rapl([100.0, 1100.0, 2600.0]), 2500.0, "one source: counter, not confirmed"),
        (rapl([WRAP - 100.0, 400.0]), 500.0, "one source"),
        (rapl([100.0, 1100.0], every=0.05), None, "0.05 s with one source; below 0.1 s"),
        (rapl([100.0, 1100.0], every=300.0), None, "wrapped more than once"),
        (rapl([100.0, 100.0]), None, "did not move"),
        ([(0.0, Reading({"card 0": 9.0})), (20.0, Reading({"card 0": 1.0}))], None, "reset"),
        ([(0.0, Reading({"a": 1.0})), (20.0, Reading({"b": 9.0}))], None, "appeared or vanished"),
        ([(0.0, Reading({"a": 1.0}, {"a": 5.0})), (20.0, Reading({"a": 9.0}))], None, "appeared or vanished"),
        ([(0.0, Reading({"a": 1.0}, {"b": 5.0})), (20.0, Reading({"a": 9.0}, {"b": 5.0}))], None, "some parts"),
        ([(0.0, Reading()), (20.0, Reading())], None, "unavailable: no counter of energy"),
        ([(0.0, Reading(why_not="no RAPL")), (20.0, Reading())], None, "unavailable: no RAPL"),
        ([(0.0, Reading({"a": 1.0}))], None, "unavailable: fewer than two"),
    ],
)
def test_a_window_s_joules(samples: list[tuple[float, Reading]], joules: float | None, words: str) -> None:
    found = used(samples)
    assert words in found.note
    assert found.joules == (None if joules is None else pytest.approx(joules))


def test_two_cards_are_one_sum_and_one_without_a_counter_leaves_the_power() -> None:
    both = [(at * 0.1, Reading({"a": 30.0 * at, "b": 10.0 * at}, {"a": 300.0, "b": 100.0})) for at in range(31)]
    assert used(both).joules == pytest.approx(1200.0)
    half = [(at, Reading({"a": said.joules["a"]}, said.watts)) for at, said in both]
    assert "one source" in used(half).note


def test_energy_per_token_by_hand() -> None:
    runs = [run([1.0, 2.0], batch=4), run([1.0, 2.0], batch=4), run([1.0, 2.0], batch=4)]
    found = compute(runs, Workload(4, 8, 2), [rank()], energy=Used(48.0, "one source"))["energy_per_token"]
    assert (found.value, found.samples, found.unit, found.better) == (2.0, (2.0,), "J/token", "lower")
    silent = compute(runs, Workload(4, 8, 2), [rank()], energy=Used(None, "unavailable: no RAPL"))["energy_per_token"]
    assert (silent.value, silent.samples, silent.note) == (None, (), "unavailable: no RAPL")


def packages(root: Path, microjoules: int) -> None:
    place = "sys/class/powercap/intel-rapl:0"
    for name, text in (("name", "package-0"), ("energy_uj", str(microjoules)), ("max_energy_range_uj", "262143328850")):
        put(root, f"{place}/{name}", text + "\n")


def test_of_a_processor_the_window_is_rapl_s(tmp_path: Path) -> None:
    packages(tmp_path, 1_000_000)
    source = source_of("cpu", ("cpu:0",), tmp_path)
    with EnergyWindow(source) as window:
        time.sleep(0.11)  # the shortest window of RAPL
        packages(tmp_path, 3_500_000)
    assert window.used.joules == pytest.approx(2.5)
    assert "package-0" in window.used.note
    with EnergyWindow(source_of("cpu", (), tmp_path / "virtual")) as window:
        pass
    assert window.used.joules is None
    assert "unavailable" in window.used.note
    assert "virtual machine" in window.used.note


class Drawing:
    """Cards of the stand-ins that draw power by the clock: their counters are exact, their sensors say `told` times."""

    def __init__(self, watts: float, told: float = 1.0) -> None:
        self.watts, self.told, self.begun = watts, told, time.monotonic()

    def energy(self, card: int) -> int:
        return round(1e3 * self.watts * (card % MODULES + 1) * (time.monotonic() - self.begun))

    def power(self, card: int) -> int:
        return round(1e3 * self.watts * (card % MODULES + 1) * self.told)


@pytest.fixture
def wired(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Drawing], None]:
    def wire(drawing: Drawing) -> None:
        cards = bound(monkeypatch)
        nvml, hlml = cards.nvml(), cards.hlml()
        nvml.nvmlDeviceGetTotalEnergyConsumption, nvml.nvmlDeviceGetPowerUsage = drawing.energy, drawing.power
        hlml.hlmlDeviceGetTotalEnergyConsumption, hlml.hlmlDeviceGetPowerUsage = drawing.energy, drawing.power
        hlml.hlmlDeviceGetModuleID = lambda card: card
        monkeypatch.setitem(sys.modules, "pynvml", nvml)
        monkeypatch.setitem(sys.modules, "pyhlml", hlml)
        put(tmp_path, "usr/lib/habanalabs/libhlml.so", "")

    return wire


@pytest.mark.parametrize(("device", "lease"), [("cuda", ("cuda:GPU-5f/0", "cuda:2")), ("hpu", ("hpu:0", "hpu:2"))])
def test_of_cards_only_those_of_the_lease_count(
    device: str, lease: tuple[str, ...], wired: Callable[[Drawing], None], tmp_path: Path
) -> None:
    drawing = Drawing(100.0)
    wired(drawing)
    with EnergyWindow(source_of(device, lease, tmp_path)) as window:
        time.sleep(0.5)
    assert window.used.joules is not None, window.used.note
    assert 200.0 <= window.used.joules <= 800.0, "two of four cards: 100 W and 300 W"
    assert "two sources agree" in window.used.note
    assert "card 0, card 2" in window.used.note
    wired(Drawing(100.0, told=1.2))
    with EnergyWindow(source_of(device, lease, tmp_path)) as window:
        time.sleep(0.3)
    assert window.used.joules is None
    assert "apart; at most 2%" in window.used.note


def test_the_instant_power_is_preferred_to_the_mean_over_a_second(
    wired: Callable[[Drawing], None], tmp_path: Path
) -> None:
    drawing = Drawing(100.0, told=1.5)
    wired(drawing)
    lib: Any = sys.modules["pynvml"]
    answer = SimpleNamespace(nvmlReturn=0, value=SimpleNamespace(uiVal=100_000))
    lib.nvmlDeviceGetFieldValues = lambda card, ids: [answer] if ids == [186] else []
    source = source_of("cuda", ("cuda:0",), tmp_path)
    assert not isinstance(source, str)
    with source() as read:
        assert read().watts == {"card 0": 100.0}
        answer.nvmlReturn = 3
        assert read().watts == {"card 0": 150.0}


@pytest.mark.parametrize(
    ("device", "lease", "why"),
    [
        ("cuda", ("cuda:9",), "card 9"),
        ("hpu", ("hpu:9",), "no module 9"),
        ("cuda", (), "which cards"),
        ("hpu", ("elsewhere",), "which cards"),
        ("xpu", ("xpu:0",), "no counter of energy of xpu"),
    ],
)
def test_what_has_no_meter_is_unavailable(
    device: str, lease: tuple[str, ...], why: str, wired: Callable[[Drawing], None], tmp_path: Path
) -> None:
    wired(Drawing(100.0))
    lib: Any = sys.modules["pynvml"]
    known = lib.nvmlDeviceGetHandleByIndex

    def handle(index: int) -> Any:
        if index >= 4:
            raise lib.NVMLError("Invalid Argument")
        return known(index)

    lib.nvmlDeviceGetHandleByIndex = handle
    with EnergyWindow(source_of(device, lease, tmp_path)) as window:
        pass
    assert window.used.joules is None
    assert window.used.note.startswith("unavailable: ")
    assert why in window.used.note


def test_a_library_that_fails_within_the_window_costs_the_number_and_not_the_run() -> None:
    @contextmanager
    def source() -> Any:
        said = iter([Reading({"card 0": 1.0}, {"card 0": 5.0})])

        def read() -> Reading:
            try:
                return next(said)
            except StopIteration:
                raise ToolFailed("the driver is gone") from None

        yield read

    with EnergyWindow(source) as window:
        pass
    assert window.used.joules is None
    assert "the driver is gone" in window.used.note
    with pytest.raises(OutOfMemory, match="its own"), EnergyWindow(source):
        raise OutOfMemory("its own")


def test_the_window_stands_round_the_timed_runs_only() -> None:
    group = Group(answers(5))
    order = group.asked

    class Window:
        used = Used(12.0, "one source")

        def __enter__(self) -> Window:
            order.append("begin")
            return self

        def __exit__(self, *_: object) -> None:
            order.append("end")

    found = measure(group, TWO, ROWS, repetitions=3, warmup=2, conditions=group.conditions, energy=Window)
    assert found.energy == Used(12.0, "one source")
    begin, end = order.index("begin"), order.index("end")
    assert order[begin + 1 : end] == ["generate 2"] * 3
    assert order[begin - 1] == order[end + 1] == "conditions"


def test_power_is_sampled_and_a_lone_counter_only_watched() -> None:
    assert every_s(Reading({"a": 1.0}, {"a": 5.0})) == 0.1
    assert every_s(Reading({"a": 1.0})) == 10.0
    with sampled(lambda: 7, lambda first: 0.01) as found:
        time.sleep(0.2)
    assert len(found) >= 5
    assert {said for _, said in found} == {7}
    assert [at for at, _ in found] == sorted(at for at, _ in found)
    calls: list[int] = []

    def read() -> int:
        calls.append(len(calls))
        return 1 // (len(calls) != 2)  # the second reading fails, no other would

    def broken() -> None:
        with sampled(read, lambda first: 0.01):
            time.sleep(0.1)

    with pytest.raises(ZeroDivisionError):
        broken()
    assert calls == [0, 1], "what is lost within the window is not read on"


def test_of_ranks_elsewhere_nothing_is_read(tmp_path: Path) -> None:
    case = Case(CPU, "transformers", "llama-tiny", "fp32")
    here = plan(case, tmp_path, placement=Placement(env=({},), cores=((0,),), lease=("cpu:0",)))
    assert not isinstance(energy_source(here), str)
    assert "other hosts" in str(energy_source(replace(here, hosts=("a", "b"))))
    assert "another process" in str(energy_source(replace(here, tier="tokens")))
