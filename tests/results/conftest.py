from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.results.postgres import Server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A PostgreSQL server that runs; without one the test fails, since nothing else proves what it is about."""
    try:
        server = Server()
    except FileNotFoundError as error:
        pytest.fail(str(error), pytrace=False)
    try:
        server.start()
        yield server
    finally:
        server.close()
