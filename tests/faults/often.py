"""A pytest plugin that runs every test of the suite twenty times, on the same live groups, each time from nothing."""

from __future__ import annotations

import pytest


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    metafunc.fixturenames.append("again")
    metafunc.parametrize("again", range(20), ids="again{}".format, scope="function")


@pytest.fixture(autouse=True)
def _asked_anew(request: pytest.FixtureRequest) -> None:
    if "generator" in request.fixturenames:
        request.getfixturevalue("generator").forget()
    if "one_rank" in request.fixturenames:
        request.getfixturevalue("one_rank").forget()
