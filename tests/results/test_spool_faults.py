"""The spool against real faults: killed writers, a file size limit, a full and a read-only file system."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from genqual.records.record import Record
from genqual.storage.push import push
from genqual.storage.sinks.base import Query
from genqual.storage.sinks.registry import open_sink
from genqual.storage.spool import Spool
from tests.results.killed import ROUNDS
from tests.results.make import record

ROOT = Path(__file__).resolve().parents[2]


def test_kill_leaves_no_record_torn_and_none_lost(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.results.killed", str(tmp_path), str(ROUNDS)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    promised = set(done.stdout.split())
    spool = Spool(tmp_path / "spool", fallback=tmp_path / "second")
    kept = [item for _, item in spool.pending("s")]
    assert all(isinstance(item, Record) for item in kept)
    assert promised <= {item.id for item in kept if isinstance(item, Record)}
    assert len(promised) > ROUNDS


def test_kill_at_fifty_moments_of_spooling_and_pushing_loses_nothing_and_tears_nothing(tmp_path: Path) -> None:
    urls = [f"sqlite:///{tmp_path}/results.db", f"file://{tmp_path}/store"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.results.killed", str(tmp_path), "50", *urls],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    promised = set(done.stdout.split())
    assert len(promised) > 50
    before = [len(list(open_sink(url).read(Query()))) for url in urls]
    assert min(before) > 0  # some were killed after, some before their push
    spool = Spool(tmp_path / "spool", fallback=tmp_path / "second")
    report = push(spool, urls)
    assert (report.ok, report.set_aside) == (True, [])
    for url in urls:  # every record that is read has been verified against its id
        kept = [one.id for one in open_sink(url).read(Query())]
        assert len(kept) == len(set(kept))
        assert promised <= set(kept) == set(spool.ids())
    assert [one.sent for one in push(spool, urls).deliveries] == [0, 0]


LIMITED = """
import resource, sys
from pathlib import Path
from genqual.storage.spool import Spool, SpoolFull
from tests.results.killed import ROUNDS
from tests.results.make import record
spool = Spool(Path(sys.argv[1]) / "spool", fallback=Path(sys.argv[1]) / "second")
spool.write(record(run="before"))
resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))
try:
    spool.write(record(run="after"))
except SpoolFull as error:
    print(error)
    sys.exit(7)
"""


def test_a_file_size_limit_ends_in_one_paragraph(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (7, "")
    assert "File too large" in done.stdout
    spool = Spool(tmp_path / "spool", fallback=tmp_path / "second")
    assert [item.run for _, item in spool.pending("s") if isinstance(item, Record)] == ["before"]
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB, where we may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"cannot mount a small file system here: {made.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_really_full_disk_loses_nothing(small_disk: Path, tmp_path: Path) -> None:
    said: list[str] = []
    spool = Spool(small_disk / "spool", fallback=tmp_path / "second", announce=said.append)
    made = [record(run=f"run-{n}") for n in range(100)]
    places = {spool.write(one).parent for one in made}
    assert places == {small_disk / "spool", tmp_path / "second"}
    assert len(said) == 1
    assert "No space left on device" in said[0]
    assert {item.id for _, item in spool.pending("s") if isinstance(item, Record)} == {one.id for one in made}


def test_a_read_only_disk_loses_nothing(small_disk: Path, tmp_path: Path) -> None:
    said: list[str] = []
    spool = Spool(small_disk / "spool", fallback=tmp_path / "second", announce=said.append)
    spool.write(record(run="before"))
    (small_disk / "spool" / ("f" * 64 + ".json")).write_bytes(b"{")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    spool.write(record(run="after"))
    found = [item for _, item in spool.pending("s")]
    assert {item.run for item in found if isinstance(item, Record)} == {"before", "after"}
    assert "Read-only file system" in said[0]
    (damaged,) = [item for item in found if not isinstance(item, Record)]
    assert not damaged.quarantined
    assert "could not be moved: Read-only file system" in damaged.reason
