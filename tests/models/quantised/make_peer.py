"""Write what compressed-tensors itself computes of a checkpoint that quantises activations: `peer.npz` beside it.

    python make_peer.py OUT [NAME ...]        in an environment with torch, transformers and compressed-tensors

transformers loads each checkpoint as the library runs it, not dequantised: in every layer its own code rounds what
enters. Nothing of genqual is imported. An npz has the logits (steps, rows, vocabulary) of PROMPTS, forced on `forced`:

- `fp32`, `bf16`: of the checkpoint as it is, in that dtype
- `doubled`: in bf16, what enters one layer counts twice, as if its scale were taken twice too large
- `per_tensor`, `per_tensor_fp32`: a scale for all that enters a layer, where the checkpoint has one for each token
- `clipped`, `coarse`: the stored scale of one layer is halved, or doubled, and what enters is rounded by that
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

CHECKPOINTS: Final = Path(__file__).with_name("checkpoints")
NAMES: Final = ("ct-w8a8-int8", "ct-w8a8-fp8", "ct-w8a8-fp8-static", "ct-w8a8-fp8-groups")
PROMPTS: Final = ((5, 77, 130, 9, 200), (41, 33, 18, 250, 7), (100, 101, 102, 103, 104))
STEPS: Final = 6
LAYER: Final = "model.layers.0.mlp.down_proj"


def loaded(place: Path, dtype: torch.dtype) -> Any:
    """The model as the library runs it."""
    return AutoModelForCausalLM.from_pretrained(str(place), dtype=dtype, attn_implementation="eager").eval()


@torch.no_grad()
def chosen(model: Any) -> np.ndarray[Any, Any]:
    """Tokens that a model chooses after each prompt, (rows, steps)."""
    rows = []
    for prompt in PROMPTS:
        ids = list(prompt)
        for _ in range(STEPS):
            ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        rows.append(ids[len(prompt) :])
    return np.array(rows, dtype=np.int64)


@torch.no_grad()
def logits(model: Any, forced: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """What the model says before each of the forced tokens: float32, or float16, which has all of bf16's digits."""
    found = []
    for prompt, tokens in zip(PROMPTS, forced.tolist(), strict=True):
        said = model(input_ids=torch.tensor([[*prompt, *tokens[:-1]]]), use_cache=False).logits
        found.append(said[0, len(prompt) - 1 :].float().numpy())
    return np.stack(found, axis=1).astype(np.float32 if model.dtype == torch.float32 else np.float16)


def variant(name: str, target: Path, config: Callable[[dict[str, Any]], None], scale: float = 1.0) -> Path:
    """A copy of a checkpoint with another section, or with the stored scale of LAYER's input times `scale`."""
    shutil.copytree(CHECKPOINTS / name, target)
    said = json.loads((target / "config.json").read_text())
    config(said["quantization_config"]["config_groups"]["group_0"])
    (target / "config.json").write_text(json.dumps(said))
    stored = load_file(target / "model.safetensors")
    if scale != 1.0:
        stored[f"{LAYER}.input_scale"] *= scale
    save_file(stored, target / "model.safetensors", {"format": "pt"})
    return target


def per_tensor(group: dict[str, Any]) -> None:
    """One scale for all that enters."""
    group["input_activations"] |= {"strategy": "tensor", "group_size": None, "dynamic": True}


def same(group: dict[str, Any]) -> None:
    """Nothing."""


def peer(name: str, forced: np.ndarray[Any, Any], room: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Everything that is kept of one checkpoint."""
    whole, narrow = loaded(CHECKPOINTS / name, torch.float32), loaded(CHECKPOINTS / name, torch.bfloat16)
    found = {"forced": forced, "fp32": logits(whole, forced), "bf16": logits(narrow, forced)}
    narrow.get_submodule(LAYER).register_forward_pre_hook(lambda module, args: (2 * args[0],))
    found["doubled"] = logits(narrow, forced)
    if name.endswith("-static"):
        for key, scale in {"clipped": 0.5, "coarse": 2.0}.items():
            found[key] = logits(loaded(variant(name, room / f"{name}-{key}", same, scale), torch.bfloat16), forced)
    else:
        place = variant(name, room / f"{name}-tensor", per_tensor)
        found["per_tensor"] = logits(loaded(place, torch.bfloat16), forced)
        found["per_tensor_fp32"] = logits(loaded(place, torch.float32), forced)
    return found


def main() -> None:
    """The command line."""
    out = Path(sys.argv[1])
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as room:
        for name in sys.argv[2:] or NAMES:
            kept = CHECKPOINTS / name / "peer.npz"
            # The oracle's own tokens, which test_activations.py checks, where they are known; else a dequantised run's.
            forced = np.load(kept)["forced"] if kept.is_file() else oracles(name)
            (out / name).mkdir(parents=True, exist_ok=True)
            found: dict[str, Any] = peer(name, forced, Path(room))
            np.savez_compressed(out / name / "peer.npz", **found)


def oracles(name: str) -> np.ndarray[Any, Any]:
    """What the weights choose in fp32 where activations stay as they are."""
    from transformers import CompressedTensorsConfig

    said = json.loads((CHECKPOINTS / name / "config.json").read_text())["quantization_config"]
    wide = CompressedTensorsConfig(**{**said, "dequantize": True})
    model = AutoModelForCausalLM.from_pretrained(str(CHECKPOINTS / name), dtype=torch.float32, quantization_config=wide)
    return chosen(model.eval())


if __name__ == "__main__":
    main()
