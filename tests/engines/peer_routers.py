"""Run as a process: margins of the routers of checkpoints, as seen from outside, and what each model lacks.

python peer_routers.py CASES.json, {"out": file, "ids": [...], "models": [directory, ...]}; `out` (safetensors) has the
margins (tokens, layers) of each by its folder's name, none where no router was seen; stdout has what each lacks, as
JSON by name. "" stands for a MiniMax of two layers.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from genqual.engines.base import LoadRequest
from genqual.engines.hf import routers
from genqual.engines.hf.eager import TransformersEager
from genqual.models.registry import resolve
from tests.unlisted import write


def main() -> None:
    case = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    found: dict[str, Any] = {}
    said: dict[str, Any] = {}
    place: dict[str, Any] = {"rank": 0, "world_size": 1, "local_rank": 0, "local_size": 1}
    with tempfile.TemporaryDirectory() as scratch:
        write(Path(scratch), "minimax")
        for directory in [*case["models"], str(Path(scratch) / "minimax")]:
            engine = TransformersEager()
            loaded = engine.load(LoadRequest(model=resolve(directory), dtype="fp32", device="cpu", threads=1, **place))
            name = Path(directory).name
            seen = routers.margins(engine, ids=np.array([case["ids"]]))
            found |= {name: seen["margins"]} if "margins" in seen else {}
            said[name] = {"lacks": dict(loaded.lacks), "state_bytes": loaded.state_bytes}
    save_file(found, case["out"])
    print(json.dumps(said))


if __name__ == "__main__":
    main()
