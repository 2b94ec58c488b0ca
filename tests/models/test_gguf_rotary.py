"""A GGUF file whose rotary scaling transformers drops is refused by name: it would be judged as another model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from genqual.models import ggufread

from .make_gguf import llama_tiny_gguf

LOAD = """
import json, sys, torch
from pathlib import Path
from genqual.errors import BadInput
from genqual.models.load import load
from genqual.models.spec import ModelSpec
found = {}
for file in map(Path, sys.argv[1:]):
    try:
        load(ModelSpec(file.stem, "gguf", str(file), "llama"), torch.float32)
        found[file.stem] = ""
    except BadInput as error:
        found[file.stem] = str(error)
print(json.dumps(found))
"""


def test_scaling_that_transformers_drops_is_refused_by_name(tmp_path: Path) -> None:
    files = {
        "plain": llama_tiny_gguf(tmp_path / "plain.gguf"),
        "none": llama_tiny_gguf(tmp_path / "none.gguf", scaling="none"),
        "ones": llama_tiny_gguf(tmp_path / "ones.gguf", frequencies=[1.0] * 4),
        "yarn": llama_tiny_gguf(tmp_path / "yarn.gguf", scaling="yarn"),
        "linear": llama_tiny_gguf(tmp_path / "linear.gguf", scaling="linear"),
        "llama3": llama_tiny_gguf(tmp_path / "llama3.gguf", frequencies=[1.0, 1.0, 4.0, 8.0]),
    }
    told = {name: ggufread.scaled_rotary(file) for name, file in files.items()}
    scaled = {"yarn": "rope.scaling.type yarn", "linear": "rope.scaling.type linear", "llama3": "rope_freqs.weight"}
    assert told == {"plain": "", "none": "", "ones": "", **scaled}
    done = subprocess.run(
        [sys.executable, "-c", LOAD, *map(str, files.values())], capture_output=True, text=True, timeout=120, check=True
    )
    said = json.loads(done.stdout.splitlines()[-1])
    assert {name for name, text in said.items() if text} == set(scaled)
    for name, why in scaled.items():
        assert f"it scales its rotary angles ({why})" in said[name]
        assert "use the directory that the file was converted from" in said[name]
