"""GGUF files are read without an engine: config and weights are those that transformers makes of the same file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from genqual.conformance.oracle.registry import oracle_for
from genqual.errors import BadInput
from genqual.models import ggufnames, weights
from genqual.models.registry import resolve

from .gguf_written import CONFIGS, weights_of, written

ROW = [5, 77, 130, 9, 200, 41, 33, 18]
KINDS = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1")

LOAD = """
import json, sys, torch
from genqual.models.load import load, state_hash
from genqual.models.registry import resolve
from genqual.errors import BadInput
found = {}
for file in sys.argv[2:]:
    try:
        model = load(resolve(file), torch.float32)
    except BadInput as error:
        found[file] = {"error": str(error)}
        continue
    config = {name: value for name, value in model.config.to_dict().items() if not name.startswith("_")}
    with torch.no_grad():
        logits = model(torch.tensor([json.loads(sys.argv[1])])).logits[0].tolist()
    found[file] = {"hash": state_hash(model), "config": config, "logits": logits}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What transformers makes of each file: its config, the hash of its weights, its logits in fp32."""
    room = tmp_path_factory.mktemp("gguf")
    files = [written(room / f"{architecture}-Q8_0.gguf", architecture, "Q8_0") for architecture in CONFIGS]
    files += [written(room / f"llama-{kind}.gguf", "llama", kind) for kind in KINDS if kind != "Q8_0"]
    files += [written(room / "capped.gguf", "gemma2", "F32", final_logit_softcapping=20.0)]
    command = [sys.executable, "-W", "ignore", "-c", LOAD, json.dumps(ROW), *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _of(peer: dict[str, Any], name: str) -> tuple[str, dict[str, Any]]:
    return next((file, said) for file, said in peer.items() if Path(file).stem == name)


def _narrow(value: Any) -> Any:
    """In the 32 bits of a header."""
    return np.float32(value) if isinstance(value, float) else value


def _theta(config: dict[str, Any]) -> float:
    """The rotary base, wherever a release of transformers keeps it."""
    said = config.get("rope_parameters") or config
    return float(said.get("full_attention", said)["rope_theta"])


@pytest.mark.parametrize(
    "name", [f"{one}-Q8_0" for one in CONFIGS] + [f"llama-{kind}" for kind in KINDS[:3] + KINDS[4:]]
)
def test_weights_config_and_logits_are_those_of_transformers(peer: dict[str, Any], name: str) -> None:
    file, said = _of(peer, name)
    spec = resolve(file)
    assert weights.sha256(spec) == said["hash"]
    config = weights.config(spec)
    said["config"] |= {"rope_theta": _theta(said["config"]), "rope_local_base_freq": 10000.0}
    assert {key: _narrow(said["config"][key]) for key in config} == {key: _narrow(config[key]) for key in config}
    ours = oracle_for(config, weights.read(spec)).logits(ROW)
    apart = np.sqrt(np.mean((ours - np.array(said["logits"])) ** 2)) / ours.std()
    assert apart < 1e-5, f"nrms {apart:.2g}"


@pytest.mark.parametrize("architecture", CONFIGS)
def test_a_file_that_rounds_nothing_is_the_model_that_was_written(architecture: str, tmp_path: Path) -> None:
    spec = resolve(str(written(tmp_path / "m.gguf", architecture)))
    made_of = CONFIGS[architecture]
    read, made = weights.read(spec), weights_of(made_of)
    assert read.keys() == made.keys()
    for name, values in made.items():
        tolerance = 1e-7 if architecture.startswith("gemma") and name.endswith("norm.weight") else 0  # one was added
        assert np.abs(read[name] - values).max() <= tolerance, name
    assert weights.config(spec) == made_of
    assert weights.count(spec) == sum(values.size for values in made.values())


def test_a_head_wider_than_its_share_is_turned_whole_where_the_file_does_not_say(tmp_path: Path) -> None:
    """Gemma 3 270M says a head's width and nothing of what is turned."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gguf.GGUFWriter, "add_rope_dimension_count", lambda writer, count: None)
        file = written(tmp_path / "silent.gguf", "gemma3")
    assert weights.config(resolve(str(file))) == CONFIGS["gemma3"]


def test_what_transformers_leaves_out_of_the_header_is_refused_by_name(peer: dict[str, Any]) -> None:
    """It takes Gemma 2's published caps, whatever the file says."""
    file, said = _of(peer, "capped")
    assert weights.config(resolve(file))["final_logit_softcapping"] == 20.0
    assert "reads final_logit_softcapping = 30.0 for 20.0 from GGUF" in said["error"]


def test_scaled_angles_are_refused_by_name(tmp_path: Path) -> None:
    from .make_gguf import llama_tiny_gguf

    for name, options, told in (
        ("yarn", {"scaling": "yarn"}, "rope.scaling.type yarn"),
        ("llama3", {"frequencies": [1.0, 1.0, 4.0, 8.0]}, "rope_freqs.weight"),
    ):
        spec = resolve(str(llama_tiny_gguf(tmp_path / f"{name}.gguf", **options)))
        with pytest.raises(BadInput, match=rf"scales its rotary angles \({told}\).*use the directory"):
            weights.config(spec)


def test_an_architecture_that_is_not_known_is_named() -> None:
    with pytest.raises(BadInput, match="how rwkv lies in a GGUF file is not known; known are bloom, gemma2"):
        ggufnames.arrangement("rwkv")
    with pytest.raises(BadInput, match=r"what transformers calls its tensor blk\.0\.ffn_gate_exps\.weight"):
        ggufnames.transformers_name("blk.0.ffn_gate_exps.weight", "llama")
