"""Models that keep a state instead of keys, or beside them: loaded, decoded, read in parts, judged by our oracle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from genqual.conformance.judgement import FP32_LIMIT
from genqual.conformance.oracle.registry import architecture_of, oracle_for
from tests.here import CPU
from tests.plugin.suite import suite

from .harness import Answers, nrms, run

ROWS: Final = [[3, 41, 59, 26], [35, 89, 79, 32, 84, 62, 43], [11, 7]]  # three lengths, so two rows are padded
FORCED: Final = np.random.default_rng(5).integers(3, 96, (len(ROWS), 6)).tolist()
LENGTH: Final = max(map(len, ROWS)) + len(FORCED[0]) - 1

_BASE: Final[dict[str, Any]] = {"vocab_size": 96, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
# No bias before a convolution: behind padding, transformers lets it into the window that the first tokens see.
CONFIGS: Final[dict[str, dict[str, Any]]] = {
    "mamba2": _BASE
    | {"model_type": "mamba2", "hidden_size": 32, "num_hidden_layers": 3, "num_heads": 8, "head_dim": 8}
    | {"state_size": 12, "n_groups": 2, "conv_kernel": 4},
    "lfm2": _BASE
    | {"model_type": "lfm2", "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
    | {"intermediate_size": 48, "block_multiple_of": 8, "num_key_value_heads": 2, "full_attn_idxs": [1, 3]},
    "qwen3_next": _BASE
    | {"model_type": "qwen3_next", "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
    | {"num_key_value_heads": 2, "head_dim": 16, "full_attention_interval": 3, "linear_num_key_heads": 2}
    | {"linear_num_value_heads": 4, "linear_key_head_dim": 6, "linear_value_head_dim": 5, "num_experts": 6}
    | {"num_experts_per_tok": 2, "moe_intermediate_size": 12, "shared_expert_intermediate_size": 20},
}
# float32 elements that transformers keeps of one row, all layers: its windows hold as many inputs as there are taps.
STATES: Final = {
    "mamba2": 3 * (8 * 8 * 12 + (64 + 2 * 2 * 12) * 4),
    "lfm2": 2 * 32 * 3,
    "qwen3_next": 2 * (4 * 6 * 5 + 44 * 4),
}
KEYS: Final = {
    "mamba2": 0,
    "lfm2": 2 * 2 * 2 * 8,
    "qwen3_next": 2 * 2 * 16,
}  # and of each token: layers x (keys, values) x heads x width
RECURRENT: Final = ("mamba2", "qwen3_next")  # of which no token can be taken back


def weights_of(config: Mapping[str, Any]) -> dict[str, NDArray[np.float32]]:
    """Random weights by the oracle's declaration: no bias is zero and no norm is one."""
    random = np.random.default_rng(7)
    made = {}
    for name, shape in sorted(architecture_of(config).declared(config)[0].shapes().items()):
        wide = len(shape) > 1
        values = random.standard_normal(shape) * (1.2 / np.sqrt(shape[-1]) if wide else 0.1)
        made[name] = (values + (0.0 if wide or not name.endswith("weight") else 1.0)).astype(np.float32)
    return made


MAMBA: Final[dict[str, Any]] = _BASE | {
    **{"model_type": "mamba", "hidden_size": 16, "num_hidden_layers": 2, "state_size": 5, "conv_kernel": 4},
    **{"expand": 2, "time_step_rank": 3, "tie_word_embeddings": True},
}


def mamba_weights() -> dict[str, NDArray[np.float32]]:
    """Of the first Mamba, of which there is no oracle."""
    shapes = {"backbone.embeddings.weight": (96, 16), "backbone.norm_f.weight": (16,)}
    for layer in (f"backbone.layers.{i}" for i in range(2)):
        shapes |= {f"{layer}.norm.weight": (16,), f"{layer}.mixer.A_log": (32, 5), f"{layer}.mixer.D": (32,)}
        shapes |= {f"{layer}.mixer.conv1d.weight": (32, 1, 4), f"{layer}.mixer.conv1d.bias": (32,)}
        shapes |= {f"{layer}.mixer.in_proj.weight": (64, 16), f"{layer}.mixer.x_proj.weight": (13, 32)}
        shapes |= {f"{layer}.mixer.dt_proj.weight": (32, 3), f"{layer}.mixer.dt_proj.bias": (32,)}
        shapes |= {f"{layer}.mixer.out_proj.weight": (16, 32)}
    random = np.random.default_rng(9)
    return {name: (0.5 * random.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of each of CONFIGS, by name."""
    folder = tmp_path_factory.mktemp("recurrent")
    for name, config in {**CONFIGS, "mamba": MAMBA}.items():
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(config))
        save_file(
            mamba_weights() if name == "mamba" else weights_of(config),
            folder / name / "model.safetensors",
            {"format": "pt"},
        )
    return folder


@pytest.fixture(scope="module")
def answers(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """What `transformers` says, eager and over a static cache."""
    forced = {"rows": ROWS, "forced": FORCED}
    rows = [[4, *ROWS[1]], ROWS[1], ROWS[0]]
    plans: list[dict[str, Any]] = []
    for name in CONFIGS:
        one_by_one = forced | {"widths": [7, *([1] * (LENGTH - 7))]}
        reads = [
            ["passes", f"{name}.chunks", forced | {"widths": [6, 2, 1, LENGTH - 9]}],
            ["passes", f"{name}.tokens", one_by_one],
        ]
        if name not in RECURRENT:
            detours = [0, *([3] * (LENGTH - 7))]
            reads.append(["passes", f"{name}.cropped", one_by_one | {"detours": detours}])
        steps = [
            ["facts", f"{name}.facts", {}],
            ["score", f"{name}.score", forced],
            ["score", f"{name}.one_pass", forced | {"prefill": True}],
            *reads,
        ]
        plans.append({"engine": "transformers", "model": str(folder / name), "steps": steps})
        steps = [
            ["score", f"{name}.static", forced],
            ["score", f"{name}.between", {"rows": rows, "forced": FORCED}],
            ["score", f"{name}.static_again", forced],
        ]
        plans.append({"engine": "transformers:graphs=static", "model": str(folder / name), "steps": steps})
    steps = [
        ["facts", "mamba.facts", {}],
        ["score", "mamba.score", forced],
        ["score", "mamba.one_pass", forced | {"prefill": True}],
        ["exact", "mamba.exact", forced],
    ]
    plans.append({"engine": "transformers", "model": str(folder / "mamba"), "steps": steps})
    return run(tmp_path_factory.mktemp("answers"), *plans)[0]


def exact(name: str) -> NDArray[np.float64]:
    """The oracle's logits (steps, rows, vocabulary), a row at a time: no padding, no cache."""
    oracle = oracle_for(CONFIGS[name], weights_of(CONFIGS[name]))
    rows = [oracle.logits([*row, *forced[:-1]])[len(row) - 1 :] for row, forced in zip(ROWS, FORCED, strict=True)]
    return np.stack(rows, axis=1)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("way", ["score", "one_pass", "chunks", "tokens", "static", "static_again"])
def test_every_way_of_reading_gives_the_oracles_logits(answers: Answers, name: str, way: str) -> None:
    assert nrms(answers[f"{name}.{way}.logits"], exact(name)) < FP32_LIMIT


def test_a_window_of_inputs_can_be_cropped(answers: Answers) -> None:
    assert nrms(answers["lfm2.cropped.logits"], exact("lfm2")) < FP32_LIMIT


@pytest.mark.parametrize("name", CONFIGS)
def test_what_grows_and_what_does_not_is_told_apart(answers: Answers, name: str) -> None:
    assert answers[f"{name}.facts.kv_bytes_per_token"] == 4 * KEYS[name]
    assert answers[f"{name}.facts.state_bytes"] == 4 * STATES[name]
    lacks = answers[f"{name}.facts.lacks"]
    assert set(lacks) == ({"crop"} if name in RECURRENT else set())
    assert all(reason.startswith(f"{name} keeps a recurrent state") for reason in lacks.values())


def test_a_scan_that_begins_anew_in_each_pass_goes_on_by_single_tokens_only(answers: Answers) -> None:
    """transformers' Mamba of the first version: what several tokens after a cache would say is not defined."""
    assert set(answers["mamba.facts.lacks"]) == {"passes", "crop"}
    assert "single tokens only" in answers["mamba.facts.lacks"]["passes"]
    assert answers["mamba.facts.kv_bytes_per_token"] == 0
    assert answers["mamba.facts.state_bytes"] == 4 * 2 * 32 * (5 + 4)
    for way in ("score", "one_pass"):
        assert nrms(answers[f"mamba.{way}.logits"], answers["mamba.exact.logits"]) < FP32_LIMIT


def test_the_suite_judges_a_model_without_keys(folder: Path, tmp_path: Path) -> None:
    """What needs a cache that can be cropped is not applicable, with the reason; what is left is judged, and passes."""
    done = suite(
        tmp_path, "-m", CPU, "--engine", "transformers", f"--model={folder / 'mamba2'}", "--dtype", "fp32",
        "--no-upload", "-rs", "-k", "cropped or chunked or cache_equals_no_cache or left_padding",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    assert "1 not applicable" in done.stdout
    assert "NOT APPLICABLE: mamba2 keeps a recurrent state" in done.stdout
