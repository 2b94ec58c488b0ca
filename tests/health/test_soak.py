"""The soak: what grows, gets slower or too hot is named; what cannot be told is unknown or unavailable, never fit."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genqual.devices.climate import Climate, Heat, climate
from genqual.health import levels
from genqual.health.checks import soak
from genqual.health.checks.base import Node
from genqual.health.checks.soak import Soak, Soaked
from genqual.health.finding import Finding, Outcome
from tests.here import CPU

CORES = tuple(sorted(os.sched_getaffinity(0)))
MINUTES = 15


def soaked(
    *, leak: float = 0.0, slower: float = 0.0, heat: dict[str, Heat] | None = None, seconds: float = 60.0 * MINUTES
) -> Soaked:
    """A rank that loses `leak` bytes a second and ends `slower`; memory jumps by 40 MiB while it warms up."""
    at = np.arange(0.0, seconds, 0.5)
    noise = np.random.default_rng(7).standard_normal(len(at))
    tpot = 0.012 * np.exp(0.01 * noise + np.log1p(slower) * at / seconds)
    held = 5e8 + leak * at + np.where(at < 20.0, 0.0, 40 << 20) + 1e5 * np.abs(noise)
    one = {"at_s": at, "tpot_s": tpot, "read_s": at[::2], "held_bytes": held[::2]}
    air = [(float(second), Climate(heat or {}, {"0": 2600.0})) for second in at[::10]]
    return Soaked([one], air, 1e-4)


def found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, **how: Any) -> dict[str, Finding]:
    monkeypatch.setattr(soak, "measured", lambda *args: soaked(**how))
    return {one.entity: one for one in Soak().run(Node(CPU, (0,), tmp_path), 900.0)}


def test_a_healthy_soak_names_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said = found(monkeypatch, tmp_path)
    assert {one.outcome for one in said.values()} == {Outcome.OK, Outcome.UNAVAILABLE}
    assert said["heat"].outcome is Outcome.UNAVAILABLE
    assert "2600 MHz" in said["clocks"].evidence
    assert "MiB" in said["rank 0, memory"].evidence


@pytest.mark.parametrize(
    ("how", "entity", "word"),
    [
        ({"leak": 20e3}, "rank 0, memory", "MiB"),
        ({"slower": 0.08}, "rank 0, latency", "TPOT"),
        ({"heat": {"k10 Tctl": Heat(96.0, 95.0), "nvme": Heat(97.0, 120.0)}}, "heat", "k10 Tctl: 96 C of 95"),
    ],
)
def test_what_only_time_shows_is_named(
    how: dict[str, Any], entity: str, word: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said = found(monkeypatch, tmp_path, **how)
    named = [name for name, one in said.items() if one.outcome is Outcome.BAD]
    assert named == [entity]
    assert word in said[entity].evidence
    assert said[entity].action


def test_little_growth_little_slower_and_warm_are_fit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    heat = {"k10 Tctl": Heat(80.0, 95.0), "board": Heat(99.0, None)}
    said = found(monkeypatch, tmp_path, leak=5e3, slower=0.03, heat=heat)
    assert {one.outcome for one in said.values()} == {Outcome.OK}
    assert said["heat"].signal == 80.0, "the one that is nearest to a limit that is known"
    assert "board, 99 C" in said["heat"].evidence


def test_a_soak_that_is_too_short_is_unknown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said = found(monkeypatch, tmp_path, seconds=8.0)
    assert said["rank 0, memory"].outcome is Outcome.UNKNOWN
    assert said["rank 0, latency"].outcome is Outcome.UNKNOWN


def test_no_level_waits_for_it_and_a_long_run_does() -> None:
    def names(seconds: float) -> list[str]:
        return [one.name for one in levels.Level("n", seconds).fitting(levels.CHECKS)]

    assert all("soak" not in names(seconds) for seconds in levels.SECONDS.values())
    assert "soak" in names(1800.0)


def test_heat_and_clocks_are_read_as_the_kernel_writes_them(tmp_path: Path) -> None:
    chip = tmp_path / "sys/class/hwmon/hwmon1"
    files = {
        **{chip / "name": "k10temp", chip / "temp1_input": "61250", chip / "temp1_label": "Tctl"},
        **{chip / "temp1_crit": "95000", chip / "temp2_input": "-5000", chip / "temp3_input": "no data"},
        tmp_path / "sys/devices/system/cpu/cpu12/cpufreq/scaling_cur_freq": "3693061",
    }
    for file, said in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(said + "\n")
    now = climate(tmp_path)
    assert now.heat == {"k10temp Tctl (hwmon1)": Heat(61.25, 95.0), "k10temp temp2 (hwmon1)": Heat(-5.0, None)}
    assert now.mhz == {"12": 3693.061}
    assert climate(tmp_path / "nothing") == Climate()


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("fault", "entity"),
    [
        (None, None),
        (("tests.health.soak_faults:leaks", {"bytes_a_pass": 8192}), "rank 0, memory"),
        (("tests.health.soak_faults:creeps", {"share_a_minute": 0.15}), "rank 0, latency"),
    ],
    ids=["healthy", "leak", "creep"],
)
def test_a_real_rank_is_soaked(fault: Any, entity: str | None, tmp_path: Path) -> None:
    """Alone on the host: two minutes, where the check takes fifteen."""
    said = {one.entity: one for one in Soak(fault).run(Node(CPU, CORES, tmp_path), 120.0)}
    assert [name for name, one in said.items() if one.outcome is Outcome.BAD] == ([entity] if entity else []), said
    assert said["rank 0, memory"].outcome is not Outcome.UNKNOWN
