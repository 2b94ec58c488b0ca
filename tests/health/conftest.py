"""Cards and a host of stand-ins, and a window of counters over both."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.health.stand_ins import Cards, bound, host

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", autouse=True)
def _ranks_can_import_these_tests() -> Iterator[None]:
    """And with them the faults that stand here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
        yield


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> Cards:
    return bound(monkeypatch)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return host(tmp_path)
