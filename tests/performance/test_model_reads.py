"""What a pass reads, by the oracle's declaration, against transformers' own tree of modules and its own cache."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from genqual.cases import Workload
from genqual.metrics.compute import compute
from genqual.metrics.model_reads import ALL, ModelReads, Routed
from genqual.metrics.utilisation import kv_bytes_read, mfu, step_bandwidth
from genqual.models.spec import ModelSpec
from genqual.session.model_reads import reads_of
from tests.conformance.oracle.small import SMALL
from tests.performance.runs import MIB, rank, roofline, run, value

PEER: Final = """
import json, sys, torch, transformers
from transformers.models.auto import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING
transformers.logging.set_verbosity_error()
torch.set_num_threads(1)
found = {}
for name, fields in json.loads(sys.argv[1]).items():
    config = CONFIG_MAPPING[fields["model_type"]](**fields)
    config._experts_implementation = "eager"
    model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config).eval()
    total = sum(p.numel() for p in model.parameters())
    total += sum(b.numel() for n, b in model.named_buffers() if n.endswith("e_score_correction_bias"))
    idle = 0
    for module in model.modules():
        if type(module).__name__.endswith("Experts"):
            parts = list(module.parameters())
            count = parts[0].shape[0]
            idle += sum(p.numel() for p in parts) * (count - config.num_experts_per_tok) // count
    with torch.no_grad():
        out = model(input_ids=torch.arange(3, 11)[None], use_cache=True)
    cache = getattr(out, "past_key_values", None)
    layers = []  # numbers a token, and the window
    for layer in getattr(cache, "layers", None) or []:
        keys = getattr(layer, "keys", None)
        if isinstance(keys, torch.Tensor):
            width = (keys.numel() + layer.values.numel()) // 8
            layers.append([width, getattr(layer, "sliding_window", None)])
    latent = [m.kv_a_proj_with_mqa.out_features for m in model.modules() if hasattr(m, "kv_a_proj_with_mqa")]
    if latent:  # transformers keeps what the latent expands to
        layers = [[width, None] for width in latent]
    found[name] = {"total": total, "idle": idle, "layers": layers}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def counted() -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", PEER, json.dumps(SMALL)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout))


def declared(config: dict[str, Any], folder: Path, precision: str = "bf16") -> ModelReads:
    (folder / "config.json").write_text(json.dumps(config))
    return reads_of(ModelSpec("small", "directory", str(folder), str(config["model_type"])), precision)


@pytest.mark.parametrize("name", SMALL)
def test_weights_and_idle_experts_are_those_of_the_modules(name: str, counted: dict[str, Any], tmp_path: Path) -> None:
    reads, want = declared(SMALL[name], tmp_path), counted[name]
    assert reads.weights == want["total"]
    assert sum(mixture.idle(1) for mixture in reads.mixtures) == pytest.approx(want["idle"], abs=1e-6)
    assert reads.active_share(1) == pytest.approx(1 - want["idle"] / want["total"])


@pytest.mark.parametrize("length", [8, 40, 150])
@pytest.mark.parametrize("name", SMALL)
def test_what_is_kept_is_what_its_cache_keeps(name: str, length: int, counted: dict[str, Any], tmp_path: Path) -> None:
    reads, layers = declared(SMALL[name], tmp_path), counted[name]["layers"]
    if name == "falcon":  # transformers keeps each key once a query head; the definition, once a group of two
        layers = [[width // 2, window] for width, window in layers]
    measured = 2 * sum(width for width, _ in layers)  # as a warm-up of a few tokens sees it, in bf16
    want = 2 * sum(width * (length if window is None else min(length, window)) for width, window in layers)
    assert reads.kv_bytes(range(length, length + 1), measured) == want
    if name.startswith("deepseek"):  # an engine that keeps more than the latent reads more, and needs it not
        assert reads.kv_bytes(range(length, length + 1), 9 * measured) == want


def test_a_batch_reads_more_experts_than_a_token() -> None:
    """Against choices drawn at random, which is what the formula stands for."""
    mixture = Routed(experts=16, chosen=3, weights=10)
    random = np.random.default_rng(0)
    for batch in (1, 2, 7):
        idle = [
            16 - len({int(e) for _ in range(batch) for e in random.choice(16, 3, replace=False)}) for _ in range(4000)
        ]
        assert mixture.idle(batch) == pytest.approx(10 * float(np.mean(idle)), rel=0.03)
    assert Routed(4, 4, 10).idle(1) == 0


def test_mbu_and_mfu_count_what_is_active() -> None:
    workload, whole = Workload(batch=1, input_length=100, new_tokens=2), 30_000_000
    half = ModelReads(whole, (Routed(experts=10, chosen=1, weights=whole // 18),))  # of 10/18 of the weights 9/18 idle
    assert half.active_share(1) == pytest.approx(0.5)
    loaded = rank(kv_bytes_per_token=0)
    full, _, about = step_bandwidth(workload, [loaded], [roofline()])
    moved, _, said = step_bandwidth(workload, [loaded], [roofline()], half)
    assert moved == pytest.approx(full / 2)
    assert "of 10 experts a token reads 1" in said
    assert "expert" not in about
    assert mfu(1.0, workload, [loaded], [roofline()], half) == pytest.approx(
        mfu(1.0, workload, [loaded], [roofline()]) / 2
    )
    both = [
        compute([run([1.0, 2.0])], workload, [loaded], rooflines=[roofline((1024 * MIB, 1e9))], reads=reads)
        for reads in (ALL, half)
    ]
    for metric in ("mbu", "mfu"):
        assert value(both[1][metric]) == pytest.approx(value(both[0][metric]) / 2)
    assert "experts" in both[1]["mfu"].note


def test_beyond_its_window_a_layer_reads_no_more() -> None:
    reads = ModelReads(kept=lambda length: 10 * min(length, 16) + 6 * length + 99, element_bytes=2)
    by_hand = [2 * (10 * min(length, 16) + 6 * length) for length in (14, 15, 16, 17)]
    got = kv_bytes_read(Workload(batch=3, input_length=14, new_tokens=5), rank(kv_bytes_per_token=32), reads)
    assert got == pytest.approx(3 * sum(by_hand) / 4)
    # Half of the heads lie on another rank.
    half = kv_bytes_read(Workload(batch=3, input_length=14, new_tokens=5), rank(kv_bytes_per_token=16), reads)
    assert half == pytest.approx(got / 2)


def test_a_model_that_nobody_declares_counts_as_loading_saw_it(tmp_path: Path) -> None:
    assert declared({"model_type": "unheard_of"}, tmp_path) is ALL
    assert reads_of(ModelSpec("away", "hub", "org/away", ""), "bf16") is ALL
