"""Checkpoint directories for the tests of this room, whole and broken. NumPy and safetensors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from genqual.models import embedded, integers
from tests.conformance.oracle.small import SMALL, parameters

State = dict[str, NDArray[Any]]


def checkpoint(directory: Path, state: Mapping[str, NDArray[Any]], config: Mapping[str, Any]) -> Path:
    """`state` and `config` as a directory, written by the safetensors package, not by genqual."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config))
    save_file(dict(state), directory / "model.safetensors", {"format": "pt"})
    return directory


def llama_tiny(
    directory: Path, change: Callable[[State], object] | None = None, without: tuple[str, ...] = (), **config: Any
) -> Path:
    """llama-tiny as a directory, after `change` of its weights and of its `config`."""
    state: State = dict(integers.state("llama-tiny"))
    if change is not None:
        change(state)
    described = embedded.config("llama-tiny") | config
    return checkpoint(directory, state, {key: value for key, value in described.items() if key not in without})


def broken_checkpoints(room: Path, written: Path) -> dict[str, Path]:
    """What `load` must take (`whole`, `written` by genqual) and what it must refuse, by name."""
    extra = np.zeros((4, 4), dtype=np.float32)
    shutil.copytree(written, room / "written")
    rope = {"rope_type": "default", "rope_theta": 5000.0}
    layers = embedded.config("llama-tiny")["num_hidden_layers"]
    mask = {"model.layers.0.self_attn.masked_bias": np.array(-1e4, dtype=np.float32)}
    draft = {f"model.layers.{layers}.eh_proj.weight": extra}
    experts = dict(SMALL["deepseek_v3"])
    state, last = parameters(experts), experts["num_hidden_layers"]
    mine, next_one = (f"model.layers.{layer}." for layer in (last - 1, last))
    behind = {name.replace(mine, next_one): state[name] for name in state if name.startswith(mine)}
    return {
        "experts": checkpoint(room / "experts", state, experts),
        "with drafts of experts": checkpoint(room / "mtp", state | behind, experts | {"num_nextn_predict_layers": 1}),
        "config of 5": llama_tiny(room / "five", without=("rope_theta",), rope_parameters=rope),
        "of tomorrow": llama_tiny(room / "tomorrow", model_type="llama_of_tomorrow"),
        "written": room / "written",
        "whole": llama_tiny(room / "whole"),
        "without head": llama_tiny(room / "headless", lambda s: s.pop("lm_head.weight")),
        "without norm": llama_tiny(room / "normless", lambda s: s.pop("model.norm.weight")),
        "with more": llama_tiny(room / "more", lambda s: s.update({"model.layers.0.self_attn.q_proj.extra": extra})),
        "with a mask": llama_tiny(room / "masked", lambda s: s.update(mask)),
        "with drafts": llama_tiny(room / "drafts", lambda s: s.update(draft), num_nextn_predict_layers=1),
        "with another's drafts": llama_tiny(room / "later", lambda s: s.update(draft)),
        "misshapen": llama_tiny(
            room / "misshapen", lambda s: s.update({"model.norm.weight": np.ones(64, dtype=np.float32)})
        ),
    }
