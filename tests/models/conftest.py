"""One process of torch for the whole room, asked everything at once: importing it takes longer than the answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from genqual.models import ggufwrite, weights
from genqual.models.prompts import prompt_set, token_rows
from genqual.models.registry import resolve

from . import ggufpacked
from .checkpoints import broken_checkpoints

TINY = ("bloom-tiny", "llama-tiny")
NEW_TOKENS = 50
STEPS = 24


def rows(model: str) -> list[list[int]]:
    return token_rows(resolve(model), prompt_set("bloom").texts)


def ask(room: Path, questions: Mapping[str, object], **environment: str) -> dict[str, Any]:
    """Answers of `peer_torch.py`, run once in `room`."""
    (room / "questions.json").write_text(json.dumps(questions))
    command = [sys.executable, str(Path(__file__).with_name("peer_torch.py")), str(room)]
    env = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    answers: dict[str, Any] = json.loads((room / "answers.json").read_text())
    return answers


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or writes the user's cache."""
    monkeypatch.setenv("GENQUAL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@dataclass(frozen=True)
class Peer:
    """`room` holds the arrays and directories that torch wrote; `answers` are by question."""

    room: Path
    answers: dict[str, Any]


@pytest.fixture(scope="session")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Peer:
    room = tmp_path_factory.mktemp("peer")
    cache = str(room / "cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENQUAL_CACHE", cache)
        broken = broken_checkpoints(room, weights.directory(resolve("llama-tiny")))
        written = [
            ggufwrite.write(resolve(name), room / "gguf" / f"{name}-{dtype}.gguf", dtype)
            for name in TINY
            for dtype in ggufwrite.DTYPES
        ]
    questions: dict[str, object] = {
        model: {
            "kind": "model",
            "model": model,
            "dtypes": ["fp32", "bf16", "fp16"],
            "rows": rows(model),
            "new_tokens": NEW_TOKENS,
            "steps": STEPS,
        }
        for model in TINY
    }
    questions |= {f"load {name}": {"kind": "load", "path": str(path)} for name, path in broken.items()}
    questions |= {
        f"load {name} by from_pretrained": {"kind": "load", "path": name, "options": {"device_map": "cpu"}}
        for name in TINY
    }
    questions |= {f"load {file.name}": {"kind": "load", "path": str(file)} for file in written}
    packed = [ggufpacked.quantised(file, kind) for file in written if "fp32" in file.name for kind in ggufpacked.KINDS]
    questions |= {f"load {file.name}": {"kind": "load", "path": str(file)} for file in packed}
    questions["write"] = {"kind": "write"}
    questions["shards"] = {"kind": "shards", "model": "bloom-tiny", "to": "bloom-sharded"}
    return Peer(room, ask(room, questions, GENQUAL_CACHE=cache))
