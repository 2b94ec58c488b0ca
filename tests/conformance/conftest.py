"""One process of transformers for all tests of this room: its import takes longer than all the models."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from .peers import CONFIGS, IDS, MODELS, PROMPTS, Peers, bf16_exact, faulty, forced
from .small import parameters

PEER = Path(__file__).with_name("peer_transformers.py")


@pytest.fixture(scope="session")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Peers:
    """What transformers says of each case of `peers.py`, by name."""
    folder = tmp_path_factory.mktemp("peers")
    cases: list[dict[str, Any]] = []

    def add(name: str, config: Mapping[str, object], weights: dict[str, NDArray[Any]], **more: object) -> None:
        save_file(weights, folder / f"{name}.weights")
        files = {"weights": str(folder / f"{name}.weights"), "out": str(folder / name)}
        cases.append({"config": dict(config), **files, **more})

    for name, config in CONFIGS.items():
        add(name, config, parameters(config), kind="logits", ids=IDS)
    for name, config in MODELS.items():
        add(f"runs-{name}", config, bf16_exact(config), kind="runs", prompts=PROMPTS, forced=forced(name))
    for name, (config, weights) in faulty().items():
        add(f"runs-{name}", config, weights, kind="runs", prompts=PROMPTS, forced=forced("llama"))
    (folder / "cases.json").write_text(json.dumps(cases), encoding="utf-8")
    command = [sys.executable, str(PEER), str(folder / "cases.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return {Path(case["out"]).name: load_file(case["out"]) for case in cases}
