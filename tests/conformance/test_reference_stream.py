"""`genqual reference --stream` at work: the same files as without it, within a limit that is too small for that."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from genqual.cli import main
from genqual.models import weights
from genqual.models.registry import resolve

LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * 2)
from genqual.cli import main
main(sys.argv[2:])
"""


def ran(*words: str) -> int:
    """The exit code of `genqual reference words`, run in this process."""
    with pytest.raises(SystemExit) as stopped:
        main(["reference", *words])
    return stopped.value.code if isinstance(stopped.value.code, int) else -1


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GENQUAL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("model", ["llama-tiny", "bloom-tiny"])
def test_it_writes_what_the_oracle_in_memory_writes(
    model: str, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (model, "--schemes", "", "--steps", "3", "--out", str(tmp_path))
    assert ran(*words, "--stream") == 0
    told = capsys.readouterr().err
    assert "4 passes over 3 layers" in told
    assert f"{model}: pass 4 of 4 done" in told
    assert "million/s" in told
    assert not list((cache / "streams").iterdir())
    written = (tmp_path / model / "reference.json").read_bytes()
    assert ran(*words) == 0  # a reference that said anything else would be replaced only for a --reason
    assert (tmp_path / model / "reference.json").read_bytes() == written


@pytest.mark.usefixtures("cache")
def test_a_damaged_state_is_refused_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / "state.safetensors").write_bytes(b"no state")
    words = ("llama-tiny", "--schemes", "", "--steps", "2", "--out", str(tmp_path), "--stream", "--state", str(state))
    assert ran(*words) == 4
    assert "cannot be read" in capsys.readouterr().err
    assert (state / "state.safetensors").read_bytes() == b"no state"
    assert not (tmp_path / "llama-tiny").exists()


@pytest.mark.usefixtures("cache")
def test_a_state_in_use_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("llama-tiny", "--schemes", "", "--steps", "2", "--out", str(tmp_path), "--state", str(tmp_path / "state"))
    (tmp_path / "state").mkdir()
    with FileLock(tmp_path / "state" / "lock"):
        assert ran(*words, "--stream") == 4
        assert "in use by another process" in capsys.readouterr().err
    assert ran(*words) == 4
    assert "give --stream" in capsys.readouterr().err


@pytest.mark.heavy
def test_smollm2_is_streamed_below_its_size_in_fp32(tmp_path: Path) -> None:
    spec = resolve("smollm2-135m")
    weights.sha256(spec)  # kept in the cache, so that no run spends its time on it
    limit = 500_000_000  # bytes of address space in all: code, Python, NumPy and BLAS are counted too
    assert limit < 4 * weights.count(spec)
    words = ["reference", spec.name, "--schemes", "", "--steps", "2", "--out", str(tmp_path)]

    def limited(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", LIMITED, str(limit), *words, *more],
            capture_output=True, text=True, timeout=1800, check=False,
        )  # fmt: skip

    whole = limited()
    assert whole.returncode != 0
    assert "MemoryError" in whole.stderr
    streamed = limited("--stream")
    assert streamed.returncode == 0, streamed.stderr
    written = {file.name: file.read_bytes() for file in (tmp_path / spec.name).iterdir()}
    assert len(written) == 2
    free = subprocess.run(
        [sys.executable, "-m", "genqual.cli", *words], capture_output=True, text=True, timeout=1800, check=False
    )
    assert free.returncode == 0, free.stderr  # it found what the streamed oracle wrote, and that it says the same
    assert {file.name: file.read_bytes() for file in (tmp_path / spec.name).iterdir()} == written
