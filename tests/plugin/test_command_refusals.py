"""`genqual reference` and `genqual bisect` given what cannot be: one line, the next step, nothing of others' lost."""

from __future__ import annotations

import errno
import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from genqual.cli import main
from genqual.models.impossible import impossible
from tests.conformance.oracle.small import SMALL, parameters
from tests.models.checkpoints import checkpoint

LLAMA: dict[str, Any] = dict(SMALL["llama"])
PLAIN = ("--schemes", "", "--steps", "2")


def said(capsys: pytest.CaptureFixture[str], *arguments: str, code: int | None = 4) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    told = capsys.readouterr()
    assert (stopped.value.code or 0) == (code or 0), told.err
    assert "Traceback" not in told.err
    return told.err


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GENQUAL_CACHE", str(tmp_path / "cache"))
    return checkpoint(tmp_path / "small", parameters(LLAMA), LLAMA)


def test_a_streams_folder_keeps_what_is_not_of_the_stream(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (kept := tmp_path / "kept" / "sub").mkdir(parents=True)
    (thesis := tmp_path / "kept" / "thesis.txt").write_text("years")
    state = ("--stream", "--state", str(tmp_path / "kept"))
    said(capsys, "reference", str(model), *PLAIN, *state, "--out", str(tmp_path / "one"), code=None)
    assert thesis.read_text() == "years"
    assert sorted(kept.parent.iterdir()) == [kept, thesis], "the stream's own files are gone"
    own = ("--stream", "--state", str(tmp_path / "own"))
    said(capsys, "reference", str(model), *PLAIN, *own, "--out", str(tmp_path / "two"), code=None)
    assert not (tmp_path / "own").exists()


@pytest.mark.parametrize("stream", [False, True], ids=["in memory", "streamed"])
def test_a_disk_that_fills_is_one_line(model: Path, tmp_path: Path, stream: bool) -> None:
    """A limit on the size of a file stands in for it; 1,000 bytes hold no reference."""
    command = [sys.executable, "-m", "genqual.cli", "reference", str(model), *PLAIN, "--out", str(tmp_path / "out")]
    done = subprocess.run(
        [*command, *(["--stream", "--state", str(tmp_path / "state")] if stream else [])],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "File too large" in done.stderr
    assert "--out and --state, GENQUAL_CACHE for the cache" in done.stderr


def test_a_full_disk_leaves_a_node_unjudged(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """1 would be: unfit. A scheduler would drain it."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("genqual.commands.node._list", full)
    assert "No space left on device: free some" in said(capsys, "node", "--list", code=2)


def test_a_directory_that_cannot_be_made_is_told_before_anything_is_read(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = said(capsys, "reference", str(model), *PLAIN, "--out", "/proc/genqual/x")
    assert "--out /proc/genqual/x: cannot be made" in told
    assert "reading the weights" not in told


def test_a_renamed_directory_has_the_same_reference(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said(capsys, "reference", str(model), *PLAIN, code=None)
    copy = shutil.copytree(model, tmp_path / "copy")
    said(capsys, "reference", str(copy), *PLAIN, code=None)
    files = list((tmp_path / "cache" / "references").glob("*/reference.json"))
    assert [json.loads(file.read_text())["model"] for file in files] == ["small"]


def test_another_reference_is_refused_before_the_oracle_runs(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "reference", str(model), *PLAIN, code=None)
    told = said(capsys, "reference", str(model), "--schemes", "", "--steps", "3")
    assert "holds another reference of these weights, made as small" in told
    assert "generates" not in told
    said(capsys, "reference", str(model), "--schemes", "", "--steps", "3", "--reason", "longer", code=None)


@pytest.mark.parametrize(
    ("tokens", "wanted"), [("1,99999", "ids from 0 to 63"), ("-1,2", "ids from 0 to 63"), ("x", "write ids")]
)
def test_tokens_beyond_the_vocabulary_are_told(
    tokens: str, wanted: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert LLAMA["vocab_size"] == 64
    assert wanted in said(capsys, "bisect", str(model), "--tokens", tokens)


def test_bisect_says_why_it_needs_genquals_own_oracle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = checkpoint(tmp_path / "other", parameters(LLAMA), LLAMA | {"model_type": "stablelm"})
    told = said(capsys, "bisect", str(other), "--tokens", "1,2")
    assert "bisect compares with genqual's own oracle" in told
    assert "--by transformers" not in told, "a reference helps nothing here"


def test_weights_that_are_all_zero_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = {name: array * 0 for name, array in parameters(LLAMA).items()}
    told = said(capsys, "reference", str(checkpoint(tmp_path / "zero", state, LLAMA)), *PLAIN)
    assert "logits of zero are all the same on prompt 0: look at its weights" in told


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"num_hidden_layers": -1}, "num_hidden_layers = -1: a positive integer"),
        ({"num_hidden_layers": 0}, "num_hidden_layers = 0: a positive integer"),
        ({"vocab_size": "256"}, "vocab_size = '256': a positive integer"),
        ({"hidden_size": True}, "hidden_size = True"),
        ({"rope_theta": 0}, "rope_theta = 0: a number above 0"),
        ({"rms_norm_eps": -1e-5}, "rms_norm_eps = -1e-05: a number of at least 0"),
        ({"rms_norm_eps": "1e-5"}, "rms_norm_eps = '1e-5'"),
        ({"num_key_value_heads": 3}, "num_key_value_heads = 3: a part of its 4 attention heads"),
        ({"model_type": ["llama"]}, "model_type = ['llama']: a name"),
    ],
    ids=str,
)
def test_a_value_that_no_model_can_have_is_told_by_both_commands(
    change: dict[str, Any], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert LLAMA["num_attention_heads"] == 4
    place = str(checkpoint(tmp_path / "bad", parameters(LLAMA), LLAMA | change))
    for by in ("oracle", "transformers"):
        refused = said(capsys, "reference", place, *PLAIN, "--by", by)
        assert told in refused
        assert "generates" not in refused
    with pytest.raises(SystemExit) as stopped:
        main(["models", "explain", place])
    assert stopped.value.code == 1
    assert told in capsys.readouterr().out


@pytest.mark.parametrize("name", sorted(SMALL))
def test_no_architecture_is_impossible(name: str) -> None:
    assert impossible(SMALL[name]) is None


def test_a_contradiction_is_refused_whoever_is_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """transformers has an answer, and it would be one of two."""
    rope = {
        "rope_parameters": {"rope_type": "linear", "factor": 4.0},
        "rope_scaling": {"type": "linear", "factor": 2.0},
    }
    place = checkpoint(tmp_path / "two", parameters(LLAMA), LLAMA | rope)
    for by in ("oracle", "transformers"):
        told = said(capsys, "reference", str(place), *PLAIN, "--by", by)
        assert "rope_parameters" in told
        assert "rope_scaling" in told
        assert "generates" not in told
