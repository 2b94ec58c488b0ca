"""Every architecture, streamed from a checkpoint layer by layer, says what it says in memory, interrupted or not."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from genqual.conformance.oracle import streamed_weights
from genqual.conformance.oracle.core import LayerState
from genqual.conformance.oracle.registry import oracle_for
from genqual.conformance.oracle.streamed import Progress, StreamedOracle, stream_key
from genqual.conformance.oracle.streamed_state import StreamState
from genqual.errors import BadInput
from genqual.models import safetensor

from .small import SMALL, parameters

PROMPTS = [[5, 9, 20], [17], [int(i) for i in np.random.default_rng(1).integers(0, 64, 40)]]  # beyond every window
STEPS = 5


class Interrupted(Exception):
    """In place of a signal."""


def test_state_of_fixed_size_is_kept_a_pass_back(tmp_path: Path) -> None:
    """What grows is cut back by a token after an interruption; a matrix cannot be, so two passes are kept."""
    kept, state = StreamState(tmp_path, "key"), LayerState()
    state.extend("keys", np.zeros((1, 3, 2)))
    state.replace("matrix", np.full((2, 2), 0.0))
    kept.keep_layer_states(4, 0, [state])
    state.extend("keys", np.ones((1, 1, 2)))
    state.replace("matrix", np.full((2, 2), 1.0))
    kept.keep_layer_states(4, 1, [state])
    (before,), (after,) = kept.layer_states(4, 0, [3]), kept.layer_states(4, 1, [4])
    assert (before.arrays["matrix"] == 0.0).all()
    assert (after.arrays["matrix"] == 1.0).all()
    assert before.arrays["keys"].shape == (1, 3, 2)
    assert (before.grows, after.grows) == ({"keys"}, {"keys"})
    state.replace("matrix", np.full((2, 2), 2.0))
    kept.keep_layer_states(4, 2, [state])
    with pytest.raises(BadInput, match=r"is of pass 2, .* needs 0"):
        kept.layer_states(4, 0, [3])


@pytest.mark.parametrize("name", SMALL)
def test_it_says_what_it_says_in_memory(name: str, tmp_path: Path) -> None:
    config, seen = SMALL[name], 0
    save_file(parameters(config), tmp_path / "model.safetensors")
    entries = safetensor.checkpoint(tmp_path)
    lazy = safetensor.Tensors(entries, {stored: stored for stored in entries})

    def stops(_now: Progress) -> None:
        nonlocal seen
        seen += 1
        if seen % 5 == 0:
            raise Interrupted

    while True:
        key = stream_key(config, "0" * 64, PROMPTS, STEPS)
        streamed = StreamedOracle(config, lazy, PROMPTS, STEPS, StreamState(tmp_path / "state", key))
        try:
            streamed.run(stops)
        except Interrupted:
            continue
        break
    memory = oracle_for(config, parameters(config))
    for prompt in PROMPTS:
        tokens = memory.greedy(prompt, STEPS)
        assert streamed.greedy(prompt, STEPS).tolist() == tokens.tolist()
        row = [*prompt, *tokens[:-1]]
        np.testing.assert_allclose(streamed.logits(row), memory.logits(row), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_matrices_in_several_blocks_are_the_same_to_rounding(name: str, tmp_path: Path) -> None:
    """Stored either way round: blocks of rows are parts of a sum, or of what comes out."""
    config = SMALL[name] | {"n_inner" if name == "gpt2" else "intermediate_size": 160}
    save_file(parameters(config), tmp_path / "model.safetensors")
    entries = safetensor.checkpoint(tmp_path)
    lazy = safetensor.Tensors(entries, {stored: stored for stored in entries})
    key = stream_key(config, "0" * 64, PROMPTS, STEPS)
    oracle = StreamedOracle(config, lazy, PROMPTS, STEPS, StreamState(tmp_path / "state", key), block=64)
    oracle.run()
    whole = oracle_for(config, parameters(config))
    for prompt in PROMPTS:
        tokens = whole.greedy(prompt, STEPS)
        assert oracle.greedy(prompt, STEPS).tolist() == tokens.tolist()
        ids = [*prompt, *tokens[:-1]]
        np.testing.assert_allclose(oracle.logits(ids), whole.logits(ids), rtol=0, atol=1e-12)


class OneAtATime(dict[str, np.ndarray]):
    """Weights of a packed format: they are undone when asked for, and the last one is kept."""

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        super().__init__(arrays)
        self.asking, self.most = 0, 0

    def __getitem__(self, name: str) -> np.ndarray:
        self.asking += 1
        self.most = max(self.most, self.asking)
        time.sleep(1e-4)
        self.asking -= 1
        return super().__getitem__(name)


def test_blocks_of_a_packed_weight_are_taken_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed_weights, "usable_cores", lambda: 8)
    config = SMALL["llama"] | {"intermediate_size": 400}
    arrays = OneAtATime(parameters(config))
    key = stream_key(config, "0" * 64, PROMPTS, 2)
    oracle = StreamedOracle(config, arrays, PROMPTS, 2, StreamState(tmp_path, key), block=64)
    oracle.run()
    assert arrays.most == 1
