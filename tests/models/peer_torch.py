"""Asked by conftest.peer in a process of its own: what torch and transformers say of the models package.

`python peer_torch.py ROOM`: reads ROOM/questions.json, writes ROOM/answers.json and arrays beside it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from genqual.errors import BadInput, Unsupported
from genqual.models.load import load, state_hash
from genqual.models.registry import resolve

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def described(model: Any) -> dict[str, Any]:
    return {
        "hash": state_hash(model),
        "shapes": {name: list(parameter.shape) for name, parameter in model.named_parameters()},
        "dtypes": sorted({str(parameter.dtype) for parameter in model.parameters()}),
        "training": model.training,
        "requires_grad": any(parameter.requires_grad for parameter in model.parameters()),
        "eos": [model.config.eos_token_id, model.generation_config.eos_token_id],
        "pad": model.generation_config.pad_token_id,
    }


def greedy(model: Any, rows: list[list[int]], new_tokens: int) -> list[list[int]]:
    found = []
    for row in rows:
        out = model.generate(torch.tensor([row]), max_new_tokens=new_tokens, do_sample=False)
        found.append(out[0, len(row) :].tolist())
    return found


def logits(model: Any, rows: list[list[int]], tokens: list[list[int]], steps: int) -> np.ndarray[Any, Any]:
    """(prompts, steps, vocabulary): what the model says before each of the first `steps` of `tokens`, forced."""
    found = []
    for row, forced in zip(rows, tokens, strict=True):
        said = model(input_ids=torch.tensor([row + forced[: steps - 1]]), use_cache=False).logits
        found.append(said[0, len(row) - 1 :].float().numpy())
    return np.stack(found)


@torch.no_grad()
def answer(question: dict[str, Any], room: Path) -> Any:
    kind = question["kind"]
    if kind == "model":
        answers: dict[str, Any] = {"dtypes": {}, "capability": torch.backends.cpu.get_cpu_capability()}
        for name in question["dtypes"]:
            model = load(resolve(question["model"]), DTYPES[name])
            answers["dtypes"][name] = described(model)
            if "rows" in question:
                if name == "fp32":
                    answers["tokens"] = greedy(model, question["rows"], question["new_tokens"])
                said = logits(model, question["rows"], answers["tokens"], question["steps"])
                np.save(room / f"{question['model']}-{name}.npy", said)
        return answers
    if kind == "load":
        try:
            return {"hash": state_hash(load(resolve(question["path"]), torch.float32, **question.get("options", {})))}
        except BadInput as error:
            return {"error": str(error)}
        except Unsupported as error:
            return {"unsupported": str(error)}
    if kind == "write":
        generator = torch.Generator().manual_seed(7)
        bits = torch.randint(-(2**31), 2**31 - 1, (37, 5), generator=generator, dtype=torch.int64).to(torch.int32)
        wild = bits.view(torch.float32)  # every kind of float: subnormal, infinite, nan
        tensors = {
            "f32": wild,
            "bf16": wild.to(torch.bfloat16),
            "f16": wild.to(torch.float16),
            "scalar": wild[0, 0].clone(),
        }
        save_file(tensors, room / "torch.safetensors")
        for name, tensor in tensors.items():
            np.save(room / f"torch-{name}.npy", tensor.float().numpy())
        return None
    if kind == "shards":
        load(resolve(question["model"]), torch.bfloat16).save_pretrained(room / question["to"], max_shard_size="1MB")
        return sorted(file.name for file in (room / question["to"]).iterdir())
    raise ValueError(kind)


def main() -> None:
    torch.set_num_threads(1)
    room = Path(sys.argv[1])
    questions = json.loads((room / "questions.json").read_text())
    answers = {name: answer(question, room) for name, question in questions.items()}
    (room / "answers.json").write_text(json.dumps(answers))


if __name__ == "__main__":
    main()
