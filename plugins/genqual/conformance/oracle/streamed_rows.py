"""Rows that are computed side by side, so that a weight is read once for all of them. Pure; threads without overlap.

A layer is written for one row. Each row runs it in a thread of its own, but only one thread runs at a time: it goes on
until it wants a product with a matrix, then the next row does. Where all wait, one matrix is read and multiplied with
what all the rows that wait for it brought.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final

from genqual.conformance.oracle.core import F64

Want = tuple[str, bool]
"""A matrix by its name, and whether it is used as it is stored (True: `x @ weight`) or `x @ weight.T`."""

Products = Callable[[Want, list[F64]], list[F64]]
"""Of each x (tokens, in) the product with one matrix, (tokens, out)."""


NAME: Final = "oracle row"
"""Of the threads."""


class Together:
    """Runs calls that ask `product` for what `compute` makes: it gets the requests for one matrix at once."""

    def __init__(self, compute: Products, order: Callable[[str], int]) -> None:
        """`order` says which matrix is wanted first in a layer, so that rows that lag behind catch up."""
        self._compute, self._order = compute, order
        self._here = threading.local()

    def product(self, want: Want, x: F64) -> F64:
        """What `compute` makes of `x`: with other rows' within `run`, alone outside of it."""
        row: _Row | None = getattr(self._here, "row", None)
        return self._compute(want, [x])[0] if row is None else row.asks(want, x)

    def run(self, calls: Sequence[Callable[[], F64]]) -> list[F64]:
        """The results of `calls`, in order. Raises what one of them, or `compute`, raised; no thread is left then."""
        rows = [_Row(call, self._here) for call in calls]
        try:
            for row in rows:
                row.go_on()
            while waiting := [row for row in rows if row.want is not None]:
                first = min((row.want for row in waiting if row.want), key=lambda want: (self._order(want[0]), want))
                served = [row for row in waiting if row.want == first]
                for row, x in zip(served, self._compute(first, [row.x for row in served]), strict=True):
                    row.x = x
                    row.go_on()
        finally:
            for row in rows:
                row.abandon()
        return [row.x for row in rows]


class _Abandoned(BaseException):
    """In a row that waits while another one failed."""


class _Row:
    """One call in a thread that runs only within `go_on`. `x` is what it brings to the product that it wants, what it
    gets from there, and what it gives in the end."""

    def __init__(self, call: Callable[[], F64], here: threading.local) -> None:
        self.want: Want | None = None
        self.x: F64
        self._error: BaseException | None = None
        self._abandoned = False
        self._go, self._paused = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, args=(call, here), daemon=True, name=NAME)
        self._thread.start()

    def go_on(self) -> None:
        """Until the next product, or the end. Raises what the call raised."""
        self.want = None
        self._go.release()
        self._paused.acquire()
        if self._error is not None:
            raise self._error

    def abandon(self) -> None:
        """End the thread."""
        self._abandoned = True
        self._go.release()
        self._thread.join()

    def asks(self, want: Want, x: F64) -> F64:
        """The product, in the row's own thread."""
        self.want, self.x = want, x
        self._paused.release()
        self._wait()
        return self.x

    def _wait(self) -> None:
        self._go.acquire()
        if self._abandoned:
            raise _Abandoned

    def _run(self, call: Callable[[], F64], here: threading.local) -> None:
        here.row = self
        try:
            self._wait()
            self.x = call()
        except _Abandoned:
            pass
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits
            self._error = error
        finally:
            self._paused.release()
