"""A pytest plugin that swaps one card's shard before the suite judges the case."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from genqual.ranks.client import Generator


@pytest.fixture(scope="session", autouse=True)
def swapped(generator: Generator) -> Iterator[None]:
    with generator.fault("tests.hpu_contract.faults:swapped_shard"):
        yield
