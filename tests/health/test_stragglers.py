"""A slow part is named, parts that are alike are not, and too little evidence names nobody."""

from __future__ import annotations

import numpy as np
import pytest

from genqual.health.stragglers import standings


def rounds(seed: int, count: int, *, slow: float, parts: int = 4, noise: float = 0.02) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    host = 1.0 + 0.3 * np.abs(np.sin(np.arange(count) / 5.0))  # the host's own ups and downs, which all parts share
    table = host * np.exp(noise * random.standard_t(5, (parts, count)))
    table[-1] *= 1.0 + slow
    return {f"core {index}": row for index, row in enumerate(table)}


def named(times: dict[str, np.ndarray]) -> list[str]:
    return [one.entity for one in standings(times) if one.is_straggler]


def test_a_part_slower_by_five_percent_is_named_every_time() -> None:
    assert [named(rounds(seed, 120, slow=0.05)) for seed in range(200)] == [["core 3"]] * 200


def test_parts_that_are_alike_are_never_named() -> None:
    assert [named(rounds(seed, 120, slow=0.0)) for seed in range(500)] == [[]] * 500


def test_with_one_sibling_the_slower_of_two_is_named() -> None:
    assert named(rounds(0, 60, slow=0.05, parts=2)) == ["core 1"]


def test_the_interval_holds_the_truth() -> None:
    missed = 0
    for seed in range(300):
        one = next(one for one in standings(rounds(seed, 40, slow=0.05)) if one.entity == "core 3")
        missed += not one.low <= 0.05 <= one.high
    assert missed <= 1


@pytest.mark.parametrize(
    ("times", "why"),
    [
        ({"core 0": np.ones(40)}, "needs siblings"),
        ({"core 0": np.ones(8), "core 1": np.ones(8)}, "too few"),
        ({"core 0": np.ones(40), "core 1": np.zeros(40)}, "above zero"),
        ({"core 0": np.ones(40), "core 1": np.full(40, np.nan)}, "finite"),
    ],
)
def test_what_cannot_be_judged_is_said(times: dict[str, np.ndarray], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        standings(times)
