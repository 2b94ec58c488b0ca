"""Cards and a host of stand-ins, and a window of counters over both."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.health.stand_ins import Cards, bound, host


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> Cards:
    return bound(monkeypatch)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return host(tmp_path)
