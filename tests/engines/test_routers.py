"""Routers seen from outside say what our oracles say of their own; a cache of an architecture's own is known, too."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, Final

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from genqual.conformance.oracle.registry import oracle_for
from tests.conformance.oracle.small import SMALL, parameters, stacked

IDS: Final = [int(i) for i in np.random.default_rng(8).integers(3, 60, 11)]
EXACT: Final = ("mixtral", "qwen2_moe", "qwen3_moe", "qwen3_next", "gpt_oss")
"""Choices by the order of logits: a softmax, or the logits themselves."""
GROUPED: Final = ("deepseek_v2", "deepseek_v3")
"""Choices of groups first: how fast a group's score moves is bounded, not known."""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, NDArray[np.float64]], dict[str, Any]]:
    """Margins by name, and what each model lacks, of one process of transformers."""
    folder = tmp_path_factory.mktemp("routers")
    for name in (*EXACT, *GROUPED, "llama"):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(SMALL[name]))
        save_file(stacked(parameters(SMALL[name])), folder / name / "model.safetensors", {"format": "pt"})
    models = [str(folder / name) for name in (*EXACT, *GROUPED, "llama")]
    case = {"out": str(folder / "out"), "ids": IDS, "models": models}
    (folder / "case.json").write_text(json.dumps(case))
    command = [sys.executable, "-m", "tests.engines.peer_routers", str(folder / "case.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return load_file(folder / "out"), json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", [*EXACT, *GROUPED])
def test_margins_are_those_of_the_oracle(name: str, seen: Any) -> None:
    oracle: Any = oracle_for(SMALL[name], parameters(SMALL[name]))
    want = oracle.traced(IDS)[1]
    got = seen[0][name]
    assert want is not None
    assert got.shape == want.shape
    if name in EXACT:
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-5)
        return
    np.testing.assert_array_equal(np.isinf(got), np.isinf(want))
    known = np.isfinite(want)
    assert (got[known] <= want[known] * 1.001 + 1e-5).mean() > 0.9, "what is bounded counts as nearer, not as further"


def test_a_model_without_routers_has_no_margins(seen: Any) -> None:
    assert "llama" not in seen[0]


def test_a_cache_of_an_architecture_s_own_says_what_it_cannot_do(seen: Any) -> None:
    """MiniMax keeps the states of its linear attention in a list, and its crop refuses."""
    minimax = seen[1]["minimax"]
    assert "no token can be taken" in minimax["lacks"]["crop"]
    assert "passes" not in minimax["lacks"]
    assert minimax["state_bytes"] == 4 * 16 * 16 * 4, "one of two layers: heads x (width, width) in fp32"
    assert "crop" not in seen[1]["llama"]["lacks"]
