"""Run as a process: logits of small models by transformers. The pytest process never imports torch.

python peer.py CASES.json, a list of {"config", "weights", "ids", "out", "attention", "single"}; each writes `out`
(safetensors): "fp64" (tokens, vocabulary), and where "single" is true "fp32", and "moved" (parts,), see `moved`, unless
the case says "moved": false. In "fp64" the steps that transformers keeps in float32 are float64, too. Of a
configuration that this release does not take nothing is written, and stderr says why.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import masking_utils, modeling_rope_utils  # noqa: F401 - so that they are patched below
from transformers.models.auto import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

from genqual.errors import BadInput
from genqual.faults.injectors.places import Layer, output, places

PARTS = ("embedding", "norm", "head", *Layer.__dataclass_fields__)
Case = dict[str, Any]
RENAMED = (("embed_out.", "lm_head."), (".mlp.", ".block_sparse_moe."))  # as from_pretrained does, by release
APART = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}  # as Mixtral calls an expert's matrices


class Double:
    """The torch module, except that its float32 is float64: transformers upcasts norms, softmax and angles to it."""

    def __getattr__(self, name: str) -> Any:
        return torch.float64 if name in ("float32", "float") else getattr(torch, name)


def fitted(weights: dict[str, torch.Tensor], wanted: set[str]) -> dict[str, torch.Tensor]:
    """`weights` by the names of this release, `wanted`. Up to 4.56 the matrices of experts are apart, as published."""
    out = {}
    for stored, tensor in weights.items():
        experts = re.fullmatch(r"(.*\.experts)\.(gate_up_proj|down_proj)", stored)
        if experts is None or stored in wanted:
            others = (stored.replace(old, new) for old, new in RENAMED)
            out[stored if stored in wanted else next((name for name in others if name in wanted), stored)] = tensor
            continue
        halves = zip(("gate_proj", "up_proj"), tensor.chunk(2, dim=1), strict=True)
        for part, matrices in halves if experts[2] == "gate_up_proj" else [(experts[2], tensor)]:
            for number, matrix in enumerate(matrices):
                plain = f"{experts[1]}.{number}.{part}.weight"
                mixtral = f"{experts[1].replace('.mlp.', '.block_sparse_moe.')}.{number}.{APART[part]}.weight"
                out[mixtral if mixtral in wanted else plain] = matrix
    return out


def model_of(case: Case, dtype: torch.dtype) -> Any:
    torch.set_default_dtype(dtype)
    config = CONFIG_MAPPING[case["config"]["model_type"]](**case["config"])
    config._attn_implementation = case["attention"]
    config._experts_implementation = "eager"  # the grouped product knows no float64
    model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config).to(dtype).eval()
    weights = fitted(load_file(case["weights"]), set(model.state_dict()))
    missing, unexpected = model.load_state_dict(weights, strict=False)
    tied = {"lm_head.weight", "embed_out.weight"} if config.tie_word_embeddings else set()
    if unexpected or set(missing) - tied:
        raise SystemExit(f"{case['config']}: weights do not fit: {missing} missing, {unexpected} unexpected")
    model.tie_weights()
    return model


def taken(case: Case, dtype: torch.dtype) -> Any:
    """The model, or None where this release cannot build it."""
    try:
        return model_of(case, dtype)
    except (SystemExit, KeyError, AttributeError, ValueError) as error:
        print(f"{case['out']}: {type(error).__name__}: {error}"[:500], file=sys.stderr)
        return None


def logits(model: Any, case: Case) -> torch.Tensor:
    out: torch.Tensor = model(input_ids=torch.tensor([case["ids"]]), use_cache=False).logits[0]
    if out.dtype != model.dtype:
        raise SystemExit(f"{case['config']}: logits came as {out.dtype}, not {model.dtype}")
    return out


def moved(model: Any, case: Case, plain: torch.Tensor) -> torch.Tensor:
    """How far logits move from `plain` when a part of the last layer but one, or of the model, shifts its channels.

    Not a number for a part that this layer does not have.
    """
    found = []
    for name in PARTS:
        try:
            part = places(model).part(name, -2)
        except BadInput:  # a mixture of experts has no one linear at its ends
            found.append(torch.tensor(torch.nan))
            continue
        undo = output(object(), part, lambda result: result.roll(1, -1))
        found.append((logits(model, case) - plain).abs().max() / plain.std())
        undo()
    assert torch.equal(logits(model, case), plain)
    return torch.stack(found)


def in_single(case: Case) -> dict[str, torch.Tensor]:
    """What of `case` is computed in float32, all of it by one model; nothing where this release cannot build it."""
    model = taken(case, torch.float32)
    if model is None:
        return {}
    found = {"fp32": logits(model, case)}
    if case.get("moved", case["single"]):
        found["moved"] = moved(model, case, found["fp32"])
    return found if case["single"] else {"moved": found["moved"]}


def patched() -> None:
    """From here on float32 means float64 in transformers' own files."""
    for name, module in list(sys.modules.items()):
        if name.startswith("transformers.") and getattr(module, "torch", None) is torch:
            module.torch = Double()  # type: ignore[attr-defined]
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]


def main() -> None:
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    cases = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    with torch.no_grad():
        # Before the patch, which stays.
        single = {case["out"]: in_single(case) for case in cases if case["single"] or case.get("moved")}
        patched()
        for case in cases:
            if (model := taken(case, torch.float64)) is not None:
                found = single.get(case["out"], {}) | {"fp64": logits(model, case)}
                save_file({name: tensor.contiguous() for name, tensor in found.items()}, case["out"])


if __name__ == "__main__":
    main()
