"""A checkpoint with a large vocabulary and no tokenizer: stop strings are judged all the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from genqual.models import embedded
from tests.here import CPU
from tests.models.checkpoints import checkpoint
from tests.plugin.suite import suite

VOCABULARY = 150_000  # as of today's models; most of its signs have two characters
HIDDEN = 32


def large(directory: Path) -> Path:
    """A Llama of one layer that chooses tokens of all its vocabulary."""
    sizes = {"vocab_size": VOCABULARY, "hidden_size": HIDDEN, "intermediate_size": 64, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16}
    made = np.random.default_rng(8)
    shapes = {
        "model.embed_tokens.weight": (VOCABULARY, HIDDEN),
        **{f"model.layers.0.self_attn.{name}_proj.weight": (HIDDEN, HIDDEN) for name in "qkvo"},
        **{f"model.layers.0.mlp.{name}_proj.weight": (64, HIDDEN) for name in ("gate", "up")},
        "model.layers.0.mlp.down_proj.weight": (HIDDEN, 64),
        "lm_head.weight": (VOCABULARY, HIDDEN),
    }
    norms = ["model.norm", "model.layers.0.input_layernorm", "model.layers.0.post_attention_layernorm"]
    state = {name: made.normal(0, 0.2, shape).astype(np.float32) for name, shape in shapes.items()}
    state |= {f"{name}.weight": np.ones(HIDDEN, dtype=np.float32) for name in norms}
    return checkpoint(directory, state, embedded.config("llama-tiny") | sizes)


def test_a_large_vocabulary_without_a_tokenizer_is_judged_by_its_stop_strings(tmp_path: Path) -> None:
    model = large(tmp_path / "large")
    run = suite(
        tmp_path, "-m", CPU, "--engine", "transformers", f"--model={model}", "--dtype", "fp32", "--no-upload",
        "-k", "test_a_row_ends_at_a_stop_string",
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    assert "1 passed" in run.stdout
