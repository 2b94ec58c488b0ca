"""The only module with pytest hooks."""

from __future__ import annotations

import pytest

from genqual import markers
from genqual.options import add_options


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the suite's options."""
    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marks."""
    markers.register(config, ())
