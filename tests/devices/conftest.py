"""A PATH of one empty directory, so that tools of the host cannot answer in place of the stand-ins."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

VARIABLES = ("CUDA_VISIBLE_DEVICES", "HABANA_VISIBLE_MODULES", "ZE_AFFINITY_MASK", "PT_HPU_LAZY_MODE")


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only directory on PATH; no vendor binding can be imported, and no variable hides a card."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory))
    for binding in ("pynvml", "pyhlml"):
        monkeypatch.setitem(sys.modules, binding, None)
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    return directory


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty directory in place of `/`."""
    directory = tmp_path / "root"
    directory.mkdir()
    return directory
