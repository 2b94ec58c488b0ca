"""Heads that ranks cannot share out are unsupported, with the counts, before a rank starts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

import pytest
from safetensors.numpy import save_file

from genqual.engines.registry import engine
from genqual.models.attention_shape import heads_of, positions_of, why_not_shared
from tests.conformance.oracle.small import SMALL, parameters
from tests.here import CPU
from tests.plugin.suite import suite

MQA: Final[dict[str, Any]] = SMALL["llama"] | {"num_key_value_heads": 1}
UNEVEN: Final[dict[str, Any]] = SMALL["llama"] | {"num_key_value_heads": 3}  # four heads


@pytest.mark.parametrize(
    ("config", "counts"),
    [
        (SMALL["llama"], (4, 2)),
        (MQA, (4, 1)),
        (SMALL["gpt2"], (4, 4)),
        (SMALL["bloom"], (3, 3)),
        (SMALL["mpt"], (3, 3)),
        (SMALL["mpt"] | {"attn_config": {"kv_n_heads": 1}}, (3, 1)),
        (SMALL["falcon"], (4, 2)),
        ({"model_type": "falcon", "num_attention_heads": 71, "multi_query": True, "num_kv_heads": 71}, (71, 1)),
        ({"model_type": "falcon", "num_attention_heads": 64, "multi_query": False, "num_kv_heads": 8}, (64, 64)),
        ({"model_type": "gemma3", "text_config": {"num_attention_heads": 8, "num_key_value_heads": 4}}, (8, 4)),
        (SMALL["mamba2"] | {"num_heads": 8}, None),
    ],
)
def test_heads_are_read_as_architectures_name_them(config: dict[str, Any], counts: tuple[int, int] | None) -> None:
    assert heads_of(config) == counts


@pytest.mark.parametrize(
    ("heads", "kv_heads", "ranks", "sharing", "words"),
    [
        (4, 1, 2, "unevenly", "1 key-value head(s) for 2 ranks (4 attention heads)"),
        (4, 1, 2, "evenly", "1 key-value head(s) for 2 ranks"),
        (4, 3, 1, "", "4 attention heads over 3 key-value heads"),
        (4, 3, 2, "unevenly", "4 attention heads over 3 key-value heads"),
        (9, 3, 2, "evenly", "9 attention heads and 3 key-value heads are no multiple of 2 ranks"),
        (9, 3, 2, "evenly", "take 3 ranks, or deepspeed-inference"),
        (9, 3, 2, "unevenly", None),
        (9, 3, 3, "evenly", None),
        (8, 2, 4, "unevenly", "2 key-value head(s) for 4 ranks"),
        (8, 4, 4, "evenly", None),
        (8, 1, 8, "", None),
        (8, 1, 1, "evenly", None),
    ],
)
def test_what_ranks_can_share_out(heads: int, kv_heads: int, ranks: int, sharing: Any, words: str | None) -> None:
    found = why_not_shared({"num_attention_heads": heads, "num_key_value_heads": kv_heads}, ranks, sharing)
    assert (found is None) if words is None else (found is not None and words in found)


@pytest.mark.parametrize("name", ["deepspeed-inference", "transformers-tp", "optimum-habana"])
def test_every_engine_that_shards_says_so_from_facts_alone(name: str) -> None:
    spec = engine(name)
    device = sorted(spec.devices)[0]
    dtype = "bf16"
    found = spec.why_not(device=device, dtype=dtype, ranks=2, architecture="llama", config=MQA)
    assert found is not None
    assert "1 key-value head(s) for 2 ranks" in found
    assert spec.why_not(device=device, dtype=dtype, ranks=2, architecture="llama", config=SMALL["llama"]) is None
    assert spec.why_not(device=device, dtype=dtype, ranks=2, architecture="llama") is None  # a hub id: the ranks ask


@pytest.mark.parametrize("name", ["transformers", "accelerate", "deepspeed-zero"])
def test_an_engine_whose_ranks_hold_all_heads_runs_any_number(name: str) -> None:
    spec = engine(name)
    ranks = 2 if name == "deepspeed-zero" else 1
    assert spec.why_not(device="cpu", dtype="bf16", ranks=ranks, architecture="llama", config=MQA) is None
    found = spec.why_not(device="cpu", dtype="bf16", ranks=ranks, architecture="llama", config=UNEVEN)
    assert found is not None
    assert "4 attention heads over 3 key-value heads" in found


@pytest.mark.parametrize("name", ["deepspeed-inference", "transformers-tp"])
def test_no_rank_starts(name: str, tmp_path: Path) -> None:
    directory = tmp_path / "small mqa"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(MQA))
    save_file(parameters(MQA), directory / "model.safetensors", {"format": "pt"})
    case = ("--engine", name, f"--model={directory}", "--dtype", "fp32", "--ranks", "2")
    done = suite(tmp_path / "state", "-m", f"{CPU} and conformance", *case, "--no-upload", "-rs")
    said = done.stdout + done.stderr
    assert done.returncode in (1, 4), said  # nothing was judged, or nothing is left to run: never a pass
    assert re.search(r"1 key-value head\(s\) for 2 ranks \(4 attention heads\)", said)
    assert not re.search(r"\d+ (passed|failed)", said)
    assert "Traceback" not in said
    assert not list((tmp_path / "state").rglob("*.log"))


@pytest.mark.parametrize(
    ("config", "positions"),
    [
        ({"model_type": "llama", "max_position_embeddings": 512}, 512),
        ({"model_type": "gpt2", "n_positions": 96, "max_position_embeddings": None}, 96),
        ({"model_type": "mpt", "max_seq_len": 200}, 200),
        ({"model_type": "bloom", "n_positions": 7, "seq_length": 2048}, None),
        ({"model_type": "mamba2"}, None),
    ],
)
def test_positions_are_as_many_as_the_configuration_names(config: dict[str, Any], positions: int | None) -> None:
    assert positions_of(config) == positions
