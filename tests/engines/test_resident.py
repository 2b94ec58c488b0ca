"""Which resident pages are those of programs and libraries: their number is the page cache's doing, not the model's."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from genqual.engines.hf.smaps import program_bytes

SMAPS = """\
55e0c0000000-55e0c0001000 r--p 00000000 fe:00 11 /opt/my envs/python3.11
Rss:                   4 kB
Anonymous:             0 kB
55e0c0001000-55e0c0400000 r-xp 00001000 fe:00 11 /opt/my envs/python3.11
Rss:                2000 kB
Pss:                1000 kB
Anonymous:             0 kB
55e0c0400000-55e0c0500000 rw-p 00400000 fe:00 11 /opt/my envs/python3.11
Rss:                 500 kB
Anonymous:           200 kB
55e0c1000000-55e0c2000000 rw-p 00000000 00:00 0 [heap]
Rss:                9000 kB
Anonymous:          9000 kB
7f0000000000-7f0001000000 r--s 00000000 fe:00 12 /data/my model (deleted).safetensors
Rss:               16384 kB
Anonymous:             0 kB
VmFlags: rd sh mr mw me ms
7f0002000000-7f0003000000 rw-p 00000000 00:00 0
Rss:                 100 kB
Anonymous:           100 kB
7ffd00000000-7ffd00002000 r-xp 00000000 00:00 0 [vdso]
Rss:                   4 kB
Anonymous:             0 kB
"""


@pytest.fixture
def process_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], psutil.Process]:
    """This process, in a /proc of the test's own that has this text as its smaps, or none."""
    own = tmp_path / str(os.getpid())
    own.mkdir()
    for name in ("stat", f"{os.getpid()}/stat", f"{os.getpid()}/status"):
        (tmp_path / name).write_bytes(Path("/proc", name).read_bytes())

    def process(smaps: str | None) -> psutil.Process:
        if smaps is not None:
            (own / "smaps").write_text(smaps)
        monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path))
        return psutil.Process()

    return process


def test_code_and_what_lies_beside_it_counts_and_data_does_not(
    process_with: Callable[[str | None], psutil.Process],
) -> None:
    """What a program wrote to, of its own data, is its own: 4 + 2000 + (500 - 200) kB; no weights, no heap."""
    assert program_bytes(process_with(SMAPS)) == (4 + 2000 + 300) * 1024
    assert program_bytes(process_with("")) == 0


def refused(**_: object) -> None:
    raise psutil.AccessDenied


def test_what_the_kernel_hides_is_not_known(
    process_with: Callable[[str | None], psutil.Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert program_bytes(process_with(None)) is None
    process = process_with("")
    with monkeypatch.context() as patched:
        patched.setattr(process, "memory_maps", refused)
        assert program_bytes(process) is None


def test_the_kernel_counts_as_many_file_pages(tmp_path: Path) -> None:
    """Of this process, by the kernel's other account: all of its files but one of data that is mapped and read."""
    file, size = tmp_path / "weights", 64 << 20
    file.write_bytes(b"\1" * size)
    status, smaps = Path("/proc/self/status"), Path("/proc/self/smaps")
    if not smaps.is_file():
        pytest.skip("no smaps on this system")
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ) as data:
        assert sum(data[:: mmap.PAGESIZE]) == size // mmap.PAGESIZE
        found = program_bytes(psutil.Process())
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
    assert found is not None
    assert found > 4 << 20
    assert found + size == pytest.approx(int(fields["RssFile"].split()[0]) * 1024, abs=8 << 20)


def test_a_ranks_memory_is_what_the_kernel_calls_its_own() -> None:
    """In a process of its own, with torch: no data is mapped there, so what is left is anonymous."""
    program = """
import json
from pathlib import Path
from genqual.engines.hf.runtime import read_memory
found = read_memory("cpu")
fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
kernel = {name: int(fields[name].split()[0]) * 1024 for name in ("RssAnon", "RssFile")}
print(json.dumps({"current": found.current, "peak": found.peak, "source": found.source, **kernel}))
"""
    if not Path("/proc/self/smaps").is_file():
        pytest.skip("no smaps on this system")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    found = json.loads(done.stdout)
    assert found["RssFile"] > 40 << 20, "torch's libraries"
    assert found["current"] == pytest.approx(found["RssAnon"], abs=8 << 20)
    assert found["current"] <= found["peak"] < found["current"] + (40 << 20)
    assert found["source"].endswith("less the mapped files of programs and libraries")


def test_an_engines_memory_begins_after_its_imports() -> None:
    """By the kernel's own account in a process that held 64 MiB before it loaded: no part of the run."""
    program = """
import json
from pathlib import Path
import genqual.engines.hf.eager as eager
from genqual.engines.base import LoadRequest
from genqual.models.registry import resolve
ballast = b"\\1" * (64 << 20)
def own():
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) * 1024
before = own()
engine = eager.TransformersEager()
numbers = {"rank": 0, "world_size": 1, "local_rank": 0, "local_size": 1, "threads": 1}
engine.load(LoadRequest(model=resolve("llama-tiny"), dtype="fp32", device="cpu", **numbers))
found = engine.memory()
print(json.dumps({"current": found.current, "peak": found.peak, "source": found.source, "grown": own() - before}))
"""
    if not Path("/proc/self/smaps").is_file():
        pytest.skip("no smaps on this system")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    found = json.loads(done.stdout.splitlines()[-1])
    assert 0 < found["current"] <= found["peak"]
    assert found["current"] == pytest.approx(found["grown"], abs=24 << 20)
    assert found["source"].endswith("less what was held after the imports")


def test_freed_blocks_are_given_back() -> None:
    """By the kernel's own account: 128 MiB in small blocks, freed but for the last, which keeps them here."""
    program = """
import json
from pathlib import Path
import numpy as np
from genqual.engines.hf.runtime import read_memory
def own():
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) * 1024
blocks = [np.ones(16 << 10, dtype=np.uint8) for _ in range(8192)]
last = blocks[-1]
blocks.clear()
kept = own()
before, kept_still = read_memory("cpu"), own()
after = read_memory("cpu", trim=True, reset=True)
reset = read_memory("cpu")
found = {"kept": kept, "kept_still": kept_still, "given_back": own(), "reset": reset.peak, "peak": after.peak}
print(json.dumps(found))
"""
    if not hasattr(ctypes.CDLL(None), "malloc_trim"):
        pytest.skip("glibc's allocator only")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    found = json.loads(done.stdout)
    assert found["kept_still"] == pytest.approx(found["kept"], abs=8 << 20), "reading alone gives nothing back"
    assert found["given_back"] < found["kept"] - (96 << 20)
    assert found["reset"] < found["peak"] - (96 << 20), "the next peak is without them"


def test_what_was_read_and_what_is_free_are_the_kernels_own_figures(tmp_path: Path) -> None:
    """By /proc itself; and nothing is said where the kernel does not count what a process reads."""
    program = """
import json, sys
from pathlib import Path
import psutil, torch
from genqual.gate.rank_launch import _storage_bytes
from genqual.metrics.roofline import _free_bytes
read = _storage_bytes()
kernel = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
free = _free_bytes(torch.device("cpu"))
memory = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
found = {"read": [read, int(kernel["read_bytes"])], "free": [free, int(memory["MemAvailable"].split()[0]) * 1024]}
root, pid = Path(sys.argv[1]), psutil.Process().pid
(root / str(pid)).mkdir()
for name in ("stat", f"{pid}/stat"):
    (root / name).write_bytes(Path("/proc", name).read_bytes())
psutil.PROCFS_PATH = str(root)
print(json.dumps({**found, "hidden": _storage_bytes()}))
"""
    if not Path("/proc/self/io").is_file():
        pytest.skip("no io on this system")
    environment = {name: value for name, value in os.environ.items() if name != "LOCAL_WORLD_SIZE"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env=environment,
    )
    found = json.loads(done.stdout)
    assert found["read"][0] == found["read"][1]
    assert found["free"][0] == pytest.approx(found["free"][1], abs=256 << 20)
    assert found["hidden"] is None
