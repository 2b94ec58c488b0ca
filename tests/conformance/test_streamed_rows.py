"""Rows side by side: one product for all that wait for a matrix, and nothing is left when one fails."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from genqual.conformance.oracle.core import F64
from genqual.conformance.oracle.streamed_rows import NAME, Together, Want

MATRICES = {name: np.random.default_rng(seed).standard_normal((3, 3)) for seed, name in enumerate("dcba")}


class Counting:
    """Multiplies, and notes the matrix and how many rows wanted it."""

    def __init__(self) -> None:
        self.served: list[tuple[str, int]] = []
        self.together = Together(self.products, list(MATRICES).index)

    def products(self, want: Want, given: list[F64]) -> list[F64]:
        name, as_stored = want
        self.served.append((name, len(given)))
        return [x @ (MATRICES[name] if as_stored else MATRICES[name].T) for x in given]

    def row(self, start: float, names: str) -> Callable[[], F64]:
        def call() -> F64:
            x = np.full((1, 3), start)
            for name in names:
                x = self.together.product((name, True), x)
            return x

        return call


def alone(start: float, names: str) -> F64:
    x = np.full((1, 3), start)
    for name in names:
        x = x @ MATRICES[name]
    return x


@pytest.mark.parametrize(
    ("rows", "served"),
    [
        (["dcb", "dcb", "dcb"], [("d", 3), ("c", 3), ("b", 3)]),
        (["dca", "dba", "da"], [("d", 3), ("c", 1), ("b", 1), ("a", 3)]),  # experts differ; the rest is shared again
        (["b", "", "a"], [("b", 1), ("a", 1)]),
        ([], []),
    ],
)
def test_a_matrix_is_read_once_for_the_rows_that_want_it(rows: list[str], served: list[tuple[str, int]]) -> None:
    counting = Counting()
    found = counting.together.run([counting.row(float(1 + i), names) for i, names in enumerate(rows)])
    for i, (names, x) in enumerate(zip(rows, found, strict=True)):
        np.testing.assert_array_equal(x, alone(float(1 + i), names))
    assert counting.served == served
    assert NAME not in {thread.name for thread in threading.enumerate()}


def test_the_same_matrix_both_ways_round_is_two_products() -> None:
    counting = Counting()
    x = np.arange(3.0)[None]
    found = counting.together.run([partial(counting.together.product, ("a", stored), x) for stored in (True, False)])
    np.testing.assert_array_equal(found[0], x @ MATRICES["a"])
    np.testing.assert_array_equal(found[1], x @ MATRICES["a"].T)


def test_outside_of_a_run_a_product_is_made_at_once() -> None:
    counting = Counting()
    np.testing.assert_array_equal(counting.together.product(("b", True), np.ones((1, 3))), alone(1.0, "b"))


def test_one_row_runs_at_a_time() -> None:
    counting, inside, most = Counting(), 0, 0

    def call() -> F64:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        for _ in range(2000):
            most = max(most, inside)
        inside -= 1
        return counting.together.product(("a", True), np.ones((1, 3)))

    counting.together.run([call] * 8)
    assert most == 1


def test_what_a_row_raises_is_raised_and_the_others_end() -> None:
    counting = Counting()

    def fails() -> F64:
        counting.together.product(("a", True), np.ones((1, 3)))
        raise ZeroDivisionError("in a row")

    with pytest.raises(ZeroDivisionError, match="in a row"):
        counting.together.run([counting.row(1.0, "abc"), fails, counting.row(2.0, "abc")])
    assert NAME not in {thread.name for thread in threading.enumerate()}


def test_what_a_product_raises_is_raised_and_the_rows_end() -> None:
    def broken(want: Want, given: list[F64]) -> list[F64]:
        raise OSError("no such file")

    together = Together(broken, list(MATRICES).index)
    with pytest.raises(OSError, match="no such file"):
        together.run([lambda: together.product(("a", True), np.ones((1, 3)))] * 3)
    assert NAME not in {thread.name for thread in threading.enumerate()}
