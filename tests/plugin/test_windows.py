"""Windows of the sizes that models have are crossed by the model's own cache: right runs pass, wrong ones do not."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import numpy as np
import pytest
from safetensors.numpy import save_file
from threadpoolctl import threadpool_limits

from genqual.cli import main
from genqual.models.attention_shape import windows_said
from genqual.models.spec import ModelSpec
from genqual.session.window_crossing import crossings, settled_length, windows_of
from tests.conformance.oracle.small import SMALL, parameters
from tests.here import CPU

from .suite import ROOT, suite
from .test_other_architectures import tokenizer

ASKED: Final = "chunked_prefill or cropped_cache or positions_near"
POSITIONS: Final = "test_positions_near_the_limit"


def checkpoint(folder: Path, window: int) -> Path:
    config = SMALL["mistral"] | {"sliding_window": window, "vocab_size": 320, "num_hidden_layers": 2}
    config |= {"max_position_embeddings": 8192}
    directory = folder / f"small-{window}"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config))
    save_file(parameters(config), directory / "model.safetensors", {"format": "pt"})
    tokenizer(directory)
    return directory


def judged(folder: Path, directory: Path, by: int | None, monkeypatch: pytest.MonkeyPatch) -> tuple[int, set[str], str]:
    """The suite's exit code, what failed, and its output, with the window off by `by`; None: as it is."""
    monkeypatch.setenv("GENQUAL_CACHE", str(folder / "cache"))
    with threadpool_limits(limits=1), pytest.raises(SystemExit) as stopped:
        main(["reference", str(directory), "--schemes", "", "--steps", "6"])
    assert not stopped.value.code
    broken = () if by is None else ("-p", "tests.faults.window_faults")
    case = ("-m", f"{CPU} and conformance", f"--model={directory}", "--engine", "transformers", "--dtype", "fp32")
    # Ranks import the fault from the checkout.
    env = {} if by is None else {"GENQUAL_TEST_WINDOW": str(by), "PYTHONPATH": str(ROOT)}
    done = suite(folder / "state", *case, *broken, "--no-upload", "-k", ASKED, env=env, timeout=500)
    return done.returncode, set(re.findall(r"^FAILED \S+::(test_\w+)", done.stdout, flags=re.M)), done.stdout


@pytest.mark.parametrize("window", [512, *(pytest.param(n, marks=pytest.mark.heavy) for n in (1024, 4096))])
def test_a_right_run_crosses_its_window(window: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, failed, said = judged(tmp_path, checkpoint(tmp_path, window), None, monkeypatch)
    assert code == 0, said[-4000:]
    assert not failed
    assert "3 passed" in said


@pytest.mark.parametrize(
    ("window", "by"),
    [(512, -1), *(pytest.param(*case, marks=pytest.mark.heavy) for case in ((512, 10**6), (1024, 1), (4096, -1)))],
)
def test_a_window_that_is_off_or_ignored_is_found(
    window: int, by: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, failed, said = judged(tmp_path, checkpoint(tmp_path, window), by, monkeypatch)
    assert code == 1, said[-4000:]
    assert POSITIONS in failed


@pytest.mark.parametrize(
    ("config", "windows"),
    [
        ({"sliding_window": 512}, (512,)),
        ({"sliding_window": None}, ()),
        ({"sliding_window": 4096, "use_sliding_window": False}, ()),
        ({"sliding_window": 64, "layer_types": ["full_attention"]}, ()),
        ({"sliding_window": 64, "layer_types": ["full_attention", "sliding_attention"]}, (64,)),
        ({"text_config": {"sliding_window": 1024, "attention_chunk_size": 8192}}, (1024, 8192)),
        ({"window_size": 256}, (256,)),
        ({"sliding_window": True}, ()),
    ],
)
def test_windows_are_read_where_nobody_declares_the_architecture(config: Any, windows: tuple[int, ...]) -> None:
    assert windows_said(config) == windows


def test_a_declaration_says_which_layers_have_one(tmp_path: Path) -> None:
    spec = ModelSpec("small", "directory", str(tmp_path), "qwen2")
    for config, windows in (
        (SMALL["qwen2"], (16,)),
        (SMALL["qwen2"] | {"use_sliding_window": False}, ()),
        (SMALL["qwen2"] | {"max_window_layers": 99}, ()),
        (SMALL["gemma3_text"], (16,)),
        (SMALL["llama"], ()),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert windows_of(spec) == windows


def test_a_window_beyond_where_frequencies_change_is_not_crossed_in_parts(tmp_path: Path) -> None:
    """Of longrope only one pass over all of such a text is defined."""
    spec = ModelSpec("small", "directory", str(tmp_path), "phi3")
    factors = [1.0] * (SMALL["phi3"]["hidden_size"] // SMALL["phi3"]["num_attention_heads"] // 2)
    rope = {"rope_type": "longrope", "short_factor": factors, "long_factor": factors, "rope_theta": 1e4}
    config = {key: value for key, value in SMALL["phi3"].items() if not key.startswith("rope")}
    config |= {"sliding_window": 100, "max_position_embeddings": 4096, "original_max_position_embeddings": 256}
    config |= {"partial_rotary_factor": 1.0, "rope_parameters": rope | {"partial_rotary_factor": 1.0}}
    words = SimpleNamespace(prompts=SimpleNamespace(ids=np.ones((1, 8))), steps=8, of_experts=False, texts=[[3, 4, 5]])
    generator = SimpleNamespace(
        plan=SimpleNamespace(model=spec),
        loaded=[SimpleNamespace(max_positions=4096)],
        case=SimpleNamespace(dtype="fp32"),
    )
    for original, windows in ((256, [100]), (110, [])):
        (tmp_path / "config.json").write_text(json.dumps(config | {"original_max_position_embeddings": original}))
        assert settled_length(spec) == original
        assert [one.window for one in crossings(generator, words)] == windows  # type: ignore[arg-type]
