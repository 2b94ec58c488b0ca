"""A pytest plugin that breaks the loaded engine of every case, or of one test, before the suite judges it.

`GENQUAL_TEST_FAULT` is JSON: `name` in the catalogue, `params`, and optionally `only`, a word in the one test's id.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest

from genqual.faults import fault
from genqual.ranks.client import Generator

WANTED = json.loads(os.environ["GENQUAL_TEST_FAULT"])


@pytest.fixture(scope="session", autouse=not WANTED.get("only"))
def broken(generator: Generator) -> Iterator[None]:
    known = fault(WANTED["name"])
    with generator.fault(known.entry, **{**known.params, **WANTED.get("params", {})}):
        yield


@pytest.fixture(autouse=bool(WANTED.get("only")))
def broken_once(request: pytest.FixtureRequest) -> Iterator[None]:
    if WANTED["only"] not in request.node.nodeid:
        yield
        return
    known = fault(WANTED["name"])
    generator: Generator = request.getfixturevalue("generator")
    with generator.fault(known.entry, **{**known.params, **WANTED.get("params", {})}):
        yield
