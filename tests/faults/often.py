"""A pytest plugin that runs every test of the suite twenty times, on the same live groups."""

from __future__ import annotations

import pytest


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    metafunc.fixturenames.append("again")
    metafunc.parametrize("again", range(20), ids="again{}".format, scope="function")
