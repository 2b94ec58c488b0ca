"""One process of transformers for all architectures: its import takes longer than all the models."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from .cases import CASES
from .small import IDS, SMALL, parameters, stacked

PEER = Path(__file__).with_name("peer.py")
Answers = dict[str, dict[str, NDArray[Any]]]


@pytest.fixture(scope="session")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """What transformers says of each of CASES, by name; nothing of an architecture that this release lacks."""
    folder = tmp_path_factory.mktemp("architectures")
    cases: list[dict[str, Any]] = []
    for number, (name, case) in enumerate(CASES.items()):
        save_file(stacked(parameters(case.config)), folder / f"{number}.weights")
        files = {"weights": str(folder / f"{number}.weights"), "out": str(folder / f"{number}.out")}
        cases.append(
            {"config": dict(case.config), "ids": IDS, "attention": case.attention, "single": name in SMALL, **files}
        )
    (folder / "cases.json").write_text(json.dumps(cases), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(PEER), str(folder / "cases.json")],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    outs = {name: Path(case["out"]) for name, case in zip(CASES, cases, strict=True)}
    return {name: load_file(out) for name, out in outs.items() if out.is_file()}
