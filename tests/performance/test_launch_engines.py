"""A launch of engines whose model is elsewhere: a program, a server, OpenVINO; and of a hub id. Nothing dies of it."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from genqual.engines.base import LoadRequest
from genqual.engines.remote.external import External
from genqual.engines.remote.openai_server import Server
from genqual.errors import Unsupported
from genqual.gate import rank_launch
from genqual.gate.rank_launch import launch, plain_read
from genqual.models import embedded
from genqual.models.files import weight_files
from genqual.models.load import load
from genqual.models.registry import resolve
from genqual.models.spec import ModelSpec
from tests.engines.fake_server import Handler, next_tokens, serving
from tests.models.checkpoints import llama_tiny

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "numpy_engine.py"
MODEL = resolve("llama-tiny")


def paced(handler: Handler, body: dict[str, Any]) -> None:
    """A token every few milliseconds: what arrives in one read of the network has no times of its own."""
    handler.begin()
    for token in next_tokens(body["prompt"], body["max_tokens"]):
        time.sleep(0.005)
        handler.piece(text="?", token_ids=[token])
    handler.raw("data: [DONE]\n\n")


def request(**options: str) -> LoadRequest:
    return LoadRequest(MODEL, "fp32", "cpu", 0, 1, 0, 1, 1, dict(options))


@pytest.fixture
def program() -> Iterator[External]:
    """The worked example of the docs, loaded; its process ends with the test."""
    engine = External()
    engine.load(request(command=shlex.join([sys.executable, str(EXAMPLE)])))
    yield engine
    engine.process.kill()
    engine.process.communicate()
    engine._errors.close()


@pytest.fixture
def client() -> Iterator[Server]:
    """The `server` engine at a server that answers."""
    with serving(paced) as server:
        engine = Server()
        engine.load(request(endpoint=server.url))
        yield engine
        engine.client.close()


def launched(engine: Any, *sections: str) -> dict[str, Any]:
    ids = np.array([[3, 5, 8, 13]], dtype=np.int64)
    return launch(
        engine, sections=list(sections), shape={"hidden": 64, "layers": 1, "dtype": "fp32"}, new_tokens=4,
        calls={"decode": 2}, slowdown=0.05, threads=1, decode=ids, memory=ids,
    )  # fmt: skip


def test_a_program_is_launched_with_all_sections(program: External) -> None:
    found = launched(program, "load", "memory", "decode")
    assert found["plain_read_s"] > 0.0
    assert found["peak_bytes"] > 0
    assert np.isfinite(found["decode_times"]).all()
    assert found["cpu_share"] > 0.0
    assert "load_times" not in found


def test_the_cpu_time_of_a_program_is_its_engine_s() -> None:
    """Where the rank only waits, a share of its cores that leaves the program out would say that others had them."""
    before, alone = rank_launch._cpu_s(), time.process_time()
    code = "import time\nwhile time.process_time() < 1: pass\nprint('done', flush=True); input()"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "done\n"
        grown, own = rank_launch._cpu_s() - before, time.process_time() - alone
        child.communicate("")
    assert grown - own >= 0.9


def test_a_server_is_launched_though_it_shows_neither_loading_nor_memory(client: Server) -> None:
    found = launched(client, "load", "memory", "decode")
    assert np.isfinite(found["decode_times"]).all()
    assert found["peak_bytes"] == 0
    assert "cpu_share" not in found, "the client waits, and the server's CPU time is not seen"


@pytest.mark.parametrize("model", [object(), None, SimpleNamespace(parameters=list)])
def test_reading_an_embedded_model_asks_no_engine(model: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many bytes as transformers' model keeps, a tied head once: the clock of the baselines that there are."""
    asked: list[int] = []
    stream = SimpleNamespace(digest=asked.append)
    monkeypatch.setattr(rank_launch, "hashlib", SimpleNamespace(shake_128=lambda seed: stream, sha256=hashlib.sha256))
    for name in embedded.NAMES:
        spec = resolve(name)
        engine = SimpleNamespace(model=model, request=SimpleNamespace(model=spec))
        assert plain_read(engine) > 0.0
        kept = {tensor.data_ptr(): tensor.numel() for tensor in load(spec, torch.bfloat16).state_dict().values()}
        assert asked.pop() == sum(kept.values())


def test_who_has_no_tensors_to_weigh_is_not_loaded_again() -> None:
    engine = SimpleNamespace(model=object(), load_again=lambda: pytest.fail("of what size?"))
    assert rank_launch.loads(engine) is None


def test_a_model_that_cannot_be_read_costs_its_load_time_only(
    client: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = ModelSpec("gone", "directory", str(tmp_path), "llama")
    plain = rank_launch.plain_read
    monkeypatch.setattr(
        rank_launch, "plain_read", lambda _: plain(SimpleNamespace(request=SimpleNamespace(model=empty)))
    )
    found = launched(client, "load", "decode")
    assert found["load_unread"] == f"model gone: {tmp_path} holds neither safetensors nor .bin files"
    assert "plain_read_s" not in found
    assert np.isfinite(found["decode_times"]).all()


@pytest.fixture
def in_cache(tmp_path: Path) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """What Python says with a hub cache that holds `somebody/llama` and nothing else, and no network."""
    store = tmp_path / "hub" / "models--somebody--llama"
    commit = "0123456789abcdef0123456789abcdef01234567"
    llama_tiny(store / "snapshots" / commit)
    (store / "refs").mkdir()
    (store / "refs" / "main").write_text(commit)

    def run(code: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "hub")}
        return subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment, timeout=120
        )

    return run


def test_a_hub_id_is_read_from_its_snapshot(in_cache: Callable[[str], subprocess.CompletedProcess[str]]) -> None:
    done = in_cache(
        "import json; from types import SimpleNamespace as N\n"
        "from genqual.errors import Unsupported; from genqual.models.registry import resolve\n"
        "from genqual.models.files import weight_files; from genqual.gate.rank_launch import plain_read\n"
        "said = [file.name for file in weight_files(resolve('somebody/llama'))]\n"
        "said.append(plain_read(N(model=None, request=N(model=resolve('somebody/llama')))) > 0)\n"
        "for name in ('somebody/else', 'somebody/llama@other'):\n"
        "    try: weight_files(resolve(name))\n"
        "    except Unsupported as error: said.append(str(error))\n"
        "print(json.dumps(said))"
    )
    assert done.returncode == 0, done.stderr
    file, read, *refusals = json.loads(done.stdout.splitlines()[-1])
    assert (file, read) == ("model.safetensors", True)
    assert len(refusals) == 2
    for refusal in refusals:
        assert "no snapshot in the local hub cache" in refusal
        assert "download it and name its directory" in refusal


def test_a_directory_without_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="holds neither safetensors nor"):
        weight_files(ModelSpec("gone", "directory", str(tmp_path), "llama"))
