"""A slow link and a slow path are named by comparison within one run; links that are alike name nobody."""

from __future__ import annotations

import numpy as np
import pytest

from genqual.health.links import Links, compare, pairs

NAMES = {number: f"host{number}" for number in range(4)}


def run(seed: int, *, rates: dict[int, float] | None = None, path: tuple[int, int] | None = None) -> Links:
    """A run over four links of rate 1, but `rates`; a message is now and then kept waiting, at least half of them."""
    random = np.random.default_rng(seed)
    shared = 1.0 + 0.3 * np.abs(np.sin(np.arange(120) / 7.0))  # what other work does to the whole network
    seconds = {}
    for pair in pairs(4):
        rate = min((rates or {}).get(host, 1.0) for host in pair) * (0.9 if pair == path else 1.0)
        noise = random.exponential(0.1, (120, 2)) * random.integers(0, 2, (120, 2))
        seconds[pair] = shared[:, None] * (1.0 + noise) / rate
    return compare(seconds, NAMES)


def test_a_link_at_nine_tenths_is_named_every_time_and_alone() -> None:
    assert [run(seed, rates={seed % 4: 0.9}).named for seed in range(100)] == [
        (f"host{seed % 4}",) for seed in range(100)
    ]


def test_links_that_are_alike_name_nobody() -> None:
    assert [run(seed).named for seed in range(300)] == [()] * 300


def test_one_slow_path_is_named_and_neither_of_its_hosts() -> None:
    assert [run(seed, path=(1, 3)).named for seed in range(50)] == [("host1 - host3",)] * 50


def test_a_network_that_is_slow_as_a_whole_names_nobody() -> None:
    assert run(0, rates=dict.fromkeys(range(4), 0.5)).named == ()


def test_where_half_of_the_links_are_slow_nobody_is_named() -> None:
    """A limit of the rule, as docs/hosts.md says."""
    assert run(0, rates={0: 0.9, 1: 0.9}).named == ()


def test_the_rate_of_false_alarms_is_stated() -> None:
    assert run(0).false_alarm == pytest.approx((4 + 6) * 0.5e-4)


def test_what_cannot_be_compared_is_refused() -> None:
    fine = {pair: np.ones((120, 2)) for pair in pairs(4)}
    with pytest.raises(ValueError, match="2 hosts: a slow link needs at least 3"):
        compare({(0, 1): fine[0, 1]}, {0: "a", 1: "b"})
    with pytest.raises(ValueError, match="are wanted"):
        compare({pair: fine[pair] for pair in pairs(3)}, NAMES)
    with pytest.raises(ValueError, match="above zero"):
        compare({**fine, (0, 1): np.zeros((120, 2))}, NAMES)
    with pytest.raises(ValueError, match="too few"):
        compare({pair: fine[pair][:20] for pair in fine}, NAMES)
