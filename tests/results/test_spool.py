from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import tempfile
import time
from pathlib import Path

import pytest

from genqual.records.record import Record
from genqual.storage.record_dir import STALE_S, RecordDirectory, SetAside
from genqual.storage.spool import Spool, SpoolFull
from tests.results.make import record


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool", fallback=tmp_path / "second")


def runs(spool: Spool, sink: str = "s") -> set[str]:
    return {item.run for _, item in spool.pending(sink) if isinstance(item, Record)}


def pending(spool: Spool, sink: str = "s") -> list[Record | SetAside]:
    return [item for _, item in spool.pending(sink)]


def test_a_record_is_a_file_named_after_its_content(spool: Spool) -> None:
    path = spool.write(record())
    body = json.loads(path.read_bytes())
    body.pop("id")
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert path == spool.directory / f"{hashlib.sha256(text.encode()).hexdigest()}.json"


def test_writing_twice_is_writing_once(spool: Spool) -> None:
    first = spool.write(record())
    inode = first.stat().st_ino
    assert spool.write(record()) == first
    assert first.stat().st_ino == inode
    assert list(spool.directory.iterdir()) == [first]


def test_a_damaged_file_is_written_anew(spool: Spool) -> None:
    path = spool.write(record())
    path.write_bytes(b"{")
    spool.write(record())
    assert pending(spool) == [record()]


def test_nothing_is_made_before_the_first_write(spool: Spool) -> None:
    assert pending(spool) == []
    assert not spool.directory.exists()


def test_the_data_is_synced_before_it_gets_its_name_and_the_name_after(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []
    sync, replace = os.fsync, Path.replace

    def watched_sync(descriptor: int) -> None:
        steps.append("sync directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "sync file")
        sync(descriptor)

    def watched_replace(self: Path, target: Path) -> Path:
        steps.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", watched_sync)
    monkeypatch.setattr(Path, "replace", watched_replace)
    spool.write(record())
    assert steps == ["sync file", "rename", "sync directory"]


def test_a_short_write_is_continued(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, bytes(data)[:7]))
    spool.write(record())
    assert pending(spool) == [record()]


def test_each_sink_has_a_ledger_of_its_own(spool: Spool) -> None:
    made = [record(run=f"run-{n}") for n in range(3)]
    for one in made:
        spool.write(one)
    spool.places[0].mark("first", [made[0].id, made[1].id])
    assert pending(spool, "first") == [made[2]]
    assert runs(spool, "second") == {"run-0", "run-1", "run-2"}
    assert len(list(spool.pending("first", again=True))) == 3


def test_a_corrupted_file_is_quarantined_and_the_rest_is_read(spool: Spool) -> None:
    good, bad = record(run="good"), record(run="bad")
    spool.write(good)
    path = spool.write(bad)
    path.write_bytes(path.read_bytes().replace(b'"bad"', b'"xxx"'))
    found = pending(spool)
    (aside,) = [item for item in found if isinstance(item, SetAside)]
    assert [item for item in found if isinstance(item, Record)] == [good]
    assert aside.quarantined
    assert "changed after writing" in aside.reason
    assert aside.path == spool.directory / "quarantine" / path.name
    assert b'"xxx"' in aside.path.read_bytes()
    assert pending(spool) == [good]


def test_a_record_under_another_name_is_quarantined(spool: Spool) -> None:
    path = spool.write(record())
    path.rename(path.with_name("0" * 64 + ".json"))
    (aside,) = pending(spool)
    assert isinstance(aside, SetAside)
    assert "named after 000" in aside.reason


def test_a_record_of_a_later_version_stays_for_a_later_genqual(spool: Spool) -> None:
    spool.write(record())
    future = spool.directory / ("f" * 64 + ".json")
    future.write_bytes(b'{"schema":"genqual/2.0"}')
    aside = next(item for item in pending(spool) if isinstance(item, SetAside))
    assert not aside.quarantined
    assert "upgrade genqual" in aside.reason
    assert future.exists()


def test_other_files_are_left_alone(spool: Spool) -> None:
    spool.write(record())
    (spool.directory / "notes.json").write_text("{}")
    assert pending(spool) == [record()]
    assert (spool.directory / "notes.json").exists()


def test_only_old_temporary_files_are_swept(tmp_path: Path) -> None:
    place = RecordDirectory(tmp_path)
    old, young = tmp_path / ".a.tmp", tmp_path / ".b.tmp"
    old.touch()
    young.touch()
    before = time.time() - STALE_S - 1
    os.utime(old, (before, before))
    place.sweep()
    assert (old.exists(), young.exists()) == (False, True)


def test_a_relative_spool_stays_where_it_was_when_the_process_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spool = Spool("spool")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert spool.write(record()).parent == tmp_path / "spool"


@pytest.mark.parametrize("call", ["write", "fsync"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_disk_moves_to_the_second_directory_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    said: list[str] = []
    spool = Spool(tmp_path / "spool", fallback=tmp_path / "second", announce=said.append)
    real = getattr(os, call)

    def full(descriptor: int, *rest: bytes) -> int:
        if str(tmp_path / "spool") in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(code, os.strerror(code))
        return int(real(descriptor, *rest) or 0)

    monkeypatch.setattr(os, call, full)
    paths = [spool.write(record(run=f"run-{n}")) for n in range(2)]
    assert {path.parent for path in paths} == {tmp_path / "second"}
    assert len(said) == 1
    assert all(
        word in said[0] for word in (str(tmp_path / "spool"), str(tmp_path / "second"), os.strerror(code), "push")
    )
    assert runs(spool) == {"run-0", "run-1"}
    assert list((tmp_path / "spool").iterdir()) == []  # no torn temporary file either


def test_when_nothing_can_be_written_both_places_are_named(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(SpoolFull, match="No space left on device") as caught:
        spool.write(record())
    words = str(caught.value)
    assert all(
        word in words
        for word in (str(spool.directory), str(spool.places[1].directory), "--state-dir", record().id[:12])
    )


def test_a_spool_that_is_a_file_falls_back(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("")
    said: list[str] = []
    spool = Spool(tmp_path / "spool", fallback=tmp_path / "second", announce=said.append)
    assert spool.write(record()).parent == tmp_path / "second"
    assert len(said) == 1


def test_the_default_fallback_is_private_and_of_this_spool_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "spool").write_text("")
    one, other = (Spool(tmp_path / name, announce=lambda text: None) for name in ("spool", "other"))
    path = one.write(record())
    assert path.parent.parent == tmp_path
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert pending(other) == []


def test_a_fallback_that_another_made_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In /tmp anybody can make a link with our name that points where our records should not go."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "spool").write_text("")
    spool = Spool(tmp_path / "spool")
    (tmp_path / "trap").mkdir()
    spool.places[1].directory.symlink_to(tmp_path / "trap")
    with pytest.raises(SpoolFull, match="belongs to another user"):
        spool.write(record())
    assert pending(spool) == []
    assert list((tmp_path / "trap").iterdir()) == []
