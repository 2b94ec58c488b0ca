"""Prompts of servers: each begins as no other does, and all follow from a seed."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genqual.errors import BadInput
from genqual.models.fresh_prompts import FreshPrompts, fresh_row


def alike(a: list[int], b: list[int]) -> int:
    """How many tokens two prompts begin with in common."""
    return next((at for at, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


@given(st.integers(20, 300_000), st.integers(1, 60), st.text(max_size=5), st.integers(0, 10**9))
def test_a_prompt_is_one_of_its_vocabulary_and_always_the_same(size: int, length: int, seed: str, number: int) -> None:
    row = fresh_row(size + 3, length, seed, number)
    assert len(row) == length
    assert all(3 <= token < size + 3 for token in row)
    assert row == fresh_row(size + 3, length, seed, number)


@given(st.integers(20, 2000), st.integers(0, 10**6), st.integers(1, 10**6), st.text(max_size=5))
def test_two_numbers_part_as_early_as_a_vocabulary_allows(size: int, number: int, further: int, seed: str) -> None:
    first, second = (fresh_row(size + 3, 24, seed, one) for one in (number, number + further))
    digits = next(place for place in itertools.count() if (further // size**place) % size)
    assert alike(first, second) == digits
    assert further >= size or first[0] != second[0]


def test_no_request_of_a_session_begins_as_another_whatever_its_workload_is() -> None:
    prompts = FreshPrompts("session")
    rows = [
        row for batch, length in ((1, 32), (8, 128), (32, 32), (8, 64)) * 5 for row in prompts.rows(1024, batch, length)
    ]
    assert len(rows) == 245
    assert len({row[0] for row in rows}) == len(rows)
    again = FreshPrompts("session")
    assert [again.rows(1024, 1, 32), again.rows(1024, 8, 128)] == [rows[:1], rows[1:9]]
    assert FreshPrompts("another").rows(1024, 1, 32) != rows[:1]
    assert FreshPrompts().seed != FreshPrompts().seed


def test_processes_of_one_session_share_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", "3")
    each = []
    for worker in ("gw0", "gw1", "gw2"):
        monkeypatch.setenv("PYTEST_XDIST_WORKER", worker)
        each.append(FreshPrompts.of_process("one").rows(1024, 50, 16))
    firsts = [row[0] for rows in each for row in rows]
    assert len(set(firsts)) == 150


def test_further_in_prompts_are_not_alike_either() -> None:
    """A server that moves what it has read to other places finds nothing to move."""
    rows = FreshPrompts("chunks").rows(50_000, 200, 64)
    assert len({tuple(row[at : at + 3]) for row in rows for at in range(61)}) == 200 * 61


@pytest.mark.parametrize(("vocabulary", "length", "number"), [(3, 1, 0), (9, 0, 0), (9, 1, -1)])
def test_nothing_to_draw_is_refused(vocabulary: int, length: int, number: int) -> None:
    with pytest.raises(BadInput, match="nothing to draw"):
        fresh_row(vocabulary, length, "", number)
