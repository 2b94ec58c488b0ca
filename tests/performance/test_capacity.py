"""Bisection for the largest batch: exact, each size tried once, and fault-free about a cap."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genqual.errors import BadInput
from genqual.metrics.bisection import Capacity, search


@given(room=st.integers(0, 5000), most=st.integers(1, 4096))
def test_the_largest_is_found_to_the_row(room: int, most: int) -> None:
    found = search(lambda rows: rows <= room, most)
    assert found.largest == min(room, most)
    assert found.capped == (room >= most)
    sizes = [rows for rows, _ in found.tried]
    assert len(sizes) == len(set(sizes)) <= 2 * most.bit_length() + 1
    assert all(fitted == (rows <= room) for rows, fitted in found.tried)


def test_the_way_of_the_search() -> None:
    found = search(lambda rows: rows <= 5, 100)
    assert found == Capacity(5, False, ((1, True), (2, True), (4, True), (8, False), (6, False), (5, True)))


def test_no_row_at_all() -> None:
    assert search(lambda rows: False, 7) == Capacity(0, False, ((1, False),))


def test_a_cap_below_one_is_refused() -> None:
    with pytest.raises(BadInput, match="largest_batch = 0"):
        search(lambda rows: True, 0)
