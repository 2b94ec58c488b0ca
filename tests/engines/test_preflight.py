"""What fits is known before anything is loaded: bytes from headers, room from the tightest limit."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from genqual.engines.base import LoadRequest
from genqual.engines.hf import preflight
from genqual.errors import BadInput, OutOfMemory
from genqual.models import weights
from genqual.models.registry import resolve
from tests.devices.trees import memory_v2
from tests.memory_group import memory_group, run_inside

from .harness import LEVEL, Answers


@pytest.mark.parametrize(("precision", "width"), [("fp32", 4), ("bf16", 2), ("int8-weight", 2)])
def test_bytes_of_an_embedded_model_are_those_of_its_arrays(precision: str, width: int) -> None:
    spec = resolve("bloom-tiny")
    assert preflight.checkpoint_bytes(spec, precision) == width * sum(a.size for a in weights.read(spec).values())


def test_bytes_of_a_directory_come_from_its_headers() -> None:
    embedded, written = resolve("llama-tiny"), resolve(str(weights.directory(resolve("llama-tiny"))))
    assert written.source == "directory"
    for ask in (lambda spec: preflight.checkpoint_bytes(spec, "bf16"), preflight.largest_tensor):
        assert ask(written) == ask(embedded) > 0


@pytest.mark.parametrize(("text", "count"), [("700MB", 7 * 10**8), ("1.5GiB", 3 << 29), (2048, 2048), ("64kib", 65536)])
def test_byte_counts_are_read_as_people_write_them(text: str | int, count: int) -> None:
    assert preflight.byte_count(text, "host_memory") == count


@pytest.mark.parametrize("text", ["much", "-1", "5TB", "", "1e9"])
def test_what_is_no_byte_count_is_named(text: str) -> None:
    with pytest.raises(BadInput, match=rf"host_memory={text}: must be bytes"):
        preflight.byte_count(text, "host_memory")


def test_the_tightest_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "_ROOT", tmp_path)
    assert preflight.room().limit == "the host's memory"
    memory_v2(tmp_path, {"a": {"max": "max", "current": 123}, "a/b": {"max": "max", "current": 123}}, group="/a/b")
    assert preflight.room().limit == "the host's memory"
    memory_v2(tmp_path, {"a": {"max": 5000 << 20, "current": 123 << 20}}, group="/a/b")
    found = preflight.room()
    assert (found.free, found.limit) == (4877 << 20, "the control group's memory limit")
    assert found.detail == " (memory.max of 5,000 MiB)"
    memory_v2(tmp_path, {"a": {"max": 5000, "current": 6000}}, group="/a/b")
    assert preflight.room().free == 0


def test_ranks_share_a_group_s_limit_and_each_has_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tightest depends on how many share it: a process's own limit is nobody else's."""
    group, own = preflight.Room(600, "the group's"), preflight.Room(500, "its own", shared=False)
    assert [group.of_rank(1), group.of_rank(2), own.of_rank(2)] == [600, 300, 500]
    memory_v2(tmp_path, {"a": {"max": 100 << 20, "current": 0}}, group="/a")
    monkeypatch.setattr(preflight, "_ROOT", tmp_path)
    spec = resolve("llama-30m")  # 59 MiB in bf16: one rank fits into 100, two do not
    for ranks, fits in ((1, True), (2, False)):
        request = LoadRequest(spec, "bf16", "cpu", 0, ranks, 0, ranks, 1)
        if fits:
            assert preflight.check(request, "mine", 1.0)["limit"] == "the control group's memory limit"
            continue
        with pytest.raises(OutOfMemory, match=r"the control group's memory limit \(memory.max of 100 MiB\) leaves 100"):
            preflight.check(request, "mine", 1.0)


def test_a_limit_of_the_process_counts() -> None:
    code = (
        "import json, resource; from genqual.engines import preflight; used = preflight._data_bytes();"
        "resource.setrlimit(resource.RLIMIT_DATA, (used + (64 << 20), -1)); here = preflight.room();"
        "print(json.dumps([here.free, here.limit]))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    free, limit = json.loads(said)
    assert limit == "this process's limit (RLIMIT_DATA)"
    assert (60 << 20) < free <= (64 << 20)
    assert resource.getrlimit(resource.RLIMIT_DATA)[0] == resource.RLIM_INFINITY  # only the child was held


def test_a_model_that_cannot_fit_is_refused_before_it_is_read(eager: Answers) -> None:
    said = eager["tight"]
    assert said.startswith("OutOfMemory: transformers needs 117 MiB a rank to load llama-30m in fp32")
    assert "this process's limit (RLIMIT_DATA) leaves" in said
    assert "accelerate:placement=disk" in said


def test_a_model_beyond_a_real_group_s_limit_is_refused_in_words() -> None:
    """Where the kernel would end the rank while it loads: nobody would be told why."""
    code = (
        "from genqual.engines import preflight; from genqual.engines.base import LoadRequest\n"
        "from genqual.errors import OutOfMemory; from genqual.models.registry import resolve\n"
        "try: preflight.check(LoadRequest(resolve('llama-30m'), 'fp32', 'cpu', 0, 1, 0, 1, 1), 'mine', 1.0)\n"
        "except OutOfMemory as error: print(error)"
    )
    with memory_group(110 << 20) as place:  # 117 MiB of weights; Python and NumPy take less than 100
        done = run_inside(place, [sys.executable, "-c", code])
    assert done.returncode == 0, done.stderr
    assert "mine needs 117 MiB a rank to load llama-30m in fp32" in done.stdout
    assert "the control group's memory limit (memory.limit_in_bytes of 110 MiB) leaves" in done.stdout


def test_inspect_says_what_was_found(eager: Answers) -> None:
    found = eager["llama-tiny.facts.inspect"]["preflight"]
    assert found["model_bytes"] == found["rank_bytes"] == eager["llama-tiny.facts.weight_bytes"]
    assert found["free_bytes"] > found["rank_bytes"]


def test_under_a_limit_of_the_kernel_a_large_batch_is_an_outcome_and_the_next_one_runs(eager: Answers) -> None:
    assert eager["held.raised"].startswith("OutOfMemory: score_prefill ran out of memory")
    assert eager["held.tokens"].tolist() == eager["llama-tiny.level.tokens"].tolist()
    assert len(LEVEL) == len(eager["held.tokens"])
