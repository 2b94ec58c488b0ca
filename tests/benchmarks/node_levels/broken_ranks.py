"""A pytest plugin that puts one fault into every group of ranks: `GENQUAL_TEST_FAULT`, JSON of entry and parameters."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest

from genqual.ranks.client import Generator


@pytest.fixture(scope="session", autouse=True)
def broken(generator: Generator) -> Iterator[None]:
    entry, params = json.loads(os.environ["GENQUAL_TEST_FAULT"])
    with generator.with_fault(entry, params):
        yield
