from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import services
from tests.results.postgres import INSTALL, Server, binaries


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A PostgreSQL server that runs."""
    try:
        binaries()
    except FileNotFoundError:
        services.absent("PostgreSQL server (initdb, postgres)", INSTALL)
    server = Server()
    try:
        server.start()
        yield server
    finally:
        server.close()
