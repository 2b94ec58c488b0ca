"""A pytest plugin that gives every case's engine another attention window. In ranks: `other_window`.

`GENQUAL_TEST_WINDOW` is how many tokens the window is off by.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from genqual.ranks.client import Generator


@pytest.fixture(scope="session", autouse=True)
def broken(generator: Generator) -> Iterator[None]:
    with generator.fault("tests.faults.window_faults:other_window", by=int(os.environ["GENQUAL_TEST_WINDOW"])):
        yield


def other_window(engine: Any, rank: int, *, by: int) -> Callable[[], None]:
    """Masks and caches are made by the configuration, anew in each request."""
    config = engine.model.config
    config.sliding_window += by

    def undo() -> None:
        config.sliding_window -= by

    return undo
