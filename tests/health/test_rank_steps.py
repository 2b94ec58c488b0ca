"""Who is named of two ranks that change cores: the rank, the core, or nobody; and why where nothing can be said."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from genqual.health.checks import rank_steps
from genqual.health.checks.base import Node
from genqual.health.checks.rank_steps import RankSteps
from genqual.health.finding import Finding
from tests.here import CPU

CORES = tuple(sorted(os.sched_getaffinity(0)))
needs_two = pytest.mark.skipif(len(CORES) < 2, reason="one core has no room for two ranks")


def found(tmp_path: Path, check: RankSteps, cores: tuple[int, ...] = (4, 7)) -> dict[str, Finding]:
    return {one.entity: one for one in check.run(Node(CPU, cores, tmp_path), 25.0)}


def times(*, rank: float = 1.0, core: float = 1.0) -> list[np.ndarray]:
    """CPU seconds (runs, steps) by rank; the second rank, or the second core, takes so much longer."""
    noise = np.exp(0.005 * np.random.default_rng(3).standard_normal((2, 120, 7)))
    noise[1] *= rank
    for run in range(120):
        noise[(1 + run) % 2, run] *= core  # rank r stands on core r + run
    return list(2e-3 * noise)


@pytest.mark.parametrize(
    ("slower", "named", "component"),
    [({"rank": 1.05}, "rank 1", "software"), ({"core": 1.05}, "core 7", "processor"), ({}, None, None)],
)
def test_the_rank_or_the_core_that_is_slow_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slower: dict[str, float], named: str | None, component: str | None
) -> None:
    monkeypatch.setattr(rank_steps, "measured", lambda generator, fault: times(**slower))
    said = found(tmp_path, RankSteps())
    assert set(said) == {"rank 0", "rank 1", "core 4", "core 7"}
    assert {name: one.component for name, one in said.items() if one.outcome == "bad"} == (
        {named: component} if named else {}
    )


def some_times(*, rank: float = 1.0, noise: float = 0.005) -> Iterator[list[np.ndarray]]:
    """As `times`, drawn anew each time; `noise` is that of a generation, which its steps share."""
    random = np.random.default_rng(3)
    while True:
        shared = np.exp(noise * random.standard_normal((2, 120, 1))) * np.ones(7)
        shared[1] *= rank
        yield list(2e-3 * shared)


@pytest.mark.parametrize(
    ("rank", "noise", "seconds", "looks", "named"),
    [
        (1.05, 0.005, 60.0, 1, ["rank 1"]),
        (1.05, 0.08, 60.0, 2, ["rank 1"]),
        (1.0, 0.005, 60.0, 1, []),
        (1.018, 0.005, 60.0, 1, ["rank 1"]),  # a core would not be named for that
        (1.012, 0.02, 60.0, 4, []),  # near the limit: nobody is named, however often one looks
        (1.05, 0.08, 0.0, 1, []),  # no time for more
    ],
)
def test_it_goes_on_while_a_rank_s_interval_is_open(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rank: float,
    noise: float,
    seconds: float,
    looks: int,
    named: list[str],
) -> None:
    drawn = list(itertools.islice(some_times(rank=rank, noise=noise), 9))
    monkeypatch.setattr(rank_steps, "measured", lambda generator, fault: drawn.pop(0))
    said = list(RankSteps().run(Node(CPU, (4, 7), tmp_path), seconds))
    assert len(drawn) == 9 - looks, said
    assert [one.entity for one in said if one.outcome == "bad"] == named, said
    assert all(f"{120 * looks} runs" in (one.evidence or "") for one in said)


def test_what_cannot_be_told_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (alone,) = found(tmp_path, RankSteps(), (4,)).values()
    assert alone.outcome == "unavailable"
    monkeypatch.setattr(rank_steps, "measured", lambda generator, fault: "no times here")
    (silent,) = found(tmp_path, RankSteps()).values()
    assert (silent.outcome, silent.evidence) == ("unavailable", "no times here")


@needs_two
@pytest.mark.heavy
def test_a_rank_that_computes_half_as_much_again_is_named_by_a_real_run(tmp_path: Path) -> None:
    slow = RankSteps(("genqual.faults.injectors.ranks:rank_slow", {"on_rank": 1, "share": 0.5}))
    said = found(tmp_path, slow, CORES[:2])
    assert [name for name, one in said.items() if one.outcome == "bad"] == ["rank 1"], said
