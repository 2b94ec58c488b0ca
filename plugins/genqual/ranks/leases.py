"""Who computes where: one file lock a core or card, so that two runs on a host share none. No torch, no device."""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Collection
from functools import cached_property
from pathlib import Path
from typing import Final

import filelock
import psutil

from genqual.errors import BadInput

WAIT_S: Final = 3600.0
NEWS_S: Final = 30.0
RECENT_S: Final = 1.0  # who gave a name back within this time, and wants it again, lets those who wait go first
YIELD_S: Final = 0.25  # and waits this long for them: filelock looks every 50 ms whether a lock is free
_LOOK_S: Final = 0.005
_WAITER: Final = "waits"


def runtime_dir() -> Path:
    """Where lock files live: GENQUAL_RUNTIME_DIR (set it alike for users who share a host), else this user's own.

    Not XDG_RUNTIME_DIR: a login has it and a cron job of the same user has not, and the two must meet. Raises BadInput
    when the folder in the temporary directory belongs to somebody else.
    """
    given = os.environ.get("GENQUAL_RUNTIME_DIR")
    folder = Path(given) if given else Path(tempfile.gettempdir()) / f"genqual-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not given and folder.stat().st_uid != os.getuid():
        raise BadInput(f"{folder} belongs to another user; set GENQUAL_RUNTIME_DIR to a folder of your own")
    return folder


class Leases:
    """The leases that this process holds. Reentrant: a name held already is counted, not taken again.

    Deadlock-free by two rules. Names are taken in sorted order, all or none. And the pool never waits here while it
    keeps other leases: it gives those up first.

    Fair, nearly: a test gives its cores back after each request and wants them again a millisecond later, which a
    process that looks now and then would hardly ever find free.
    """

    def __init__(self, folder: Path | None = None, progress: Callable[[str], None] | None = None) -> None:
        self._given = folder
        self._progress = progress
        self._held: dict[str, tuple[filelock.FileLock, int]] = {}
        self._locks: dict[str, filelock.FileLock] = {}
        self._left: dict[str, float] = {}  # name -> when it was given back, on the monotonic clock

    @property
    def held(self) -> frozenset[str]:
        return frozenset(self._held)

    def taken(self) -> frozenset[str]:
        """Names that other live processes hold now: a hint for `Device.place`, stale a moment later."""
        holders = {file: self._holder(file) for file in self._folder.glob("*.holder")}
        return frozenset(name for name, pid in holders.values() if pid not in (0, os.getpid()))

    def take(self, names: Collection[str], *, wait_s: float = WAIT_S) -> bool:
        """Hold all of `names`, or none: False when another process kept one of them for `wait_s` seconds."""
        done: list[str] = []
        self._give_way({name for name in names if name not in self._held})
        for name in sorted(set(names)):
            if not self._take(name, wait_s):
                self.release(done)
                return False
            done.append(name)
        return True

    def release(self, names: Collection[str]) -> None:
        """Give back one count of each name."""
        for name in sorted(set(names), reverse=True):
            lock, count = self._held[name]
            if count > 1:
                self._held[name] = lock, count - 1
                continue
            del self._held[name]
            self._file(name, "holder").unlink(missing_ok=True)
            lock.release()
            self._left[name] = time.monotonic()

    def _take(self, name: str, wait_s: float) -> bool:
        if name in self._held:
            lock, count = self._held[name]
            self._held[name] = lock, count + 1
            return True
        lock = self._lock(name)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            if wait_s <= 0 or not self._wait(name, lock, wait_s):
                return False
        self._held[name] = lock, 1
        self._file(name, "holder").write_text(json.dumps({"name": name, **self._self}))
        return True

    def _wait(self, name: str, lock: filelock.FileLock, wait_s: float) -> bool:
        """Acquire `lock` within `wait_s` seconds, and let its holder see that somebody waits."""
        queue = self._file(name, f"{os.getpid()}.{_WAITER}")
        queue.write_text(json.dumps({"name": name, **self._self}))
        left = wait_s
        try:
            while True:
                try:
                    lock.acquire(timeout=min(left, NEWS_S))
                except filelock.Timeout:
                    left -= NEWS_S
                    if left <= 0:
                        return False
                    if self._progress is not None:
                        holder = self._holder(self._file(name, "holder"))[1]
                        self._progress(f"waiting for {name}, held by process {holder}")
                else:
                    return True
        finally:
            queue.unlink(missing_ok=True)

    def _give_way(self, names: Collection[str]) -> None:
        """Where others wait for what this process had just now, let one of them have it first."""
        now = time.monotonic()
        just_left = {name for name in names if now - self._left.get(name, -RECENT_S) < RECENT_S}
        waiting = self._waiters(just_left) if just_left else frozenset()
        while waiting and waiting <= self._waiters(just_left) and time.monotonic() - now < YIELD_S:
            time.sleep(_LOOK_S)  # another process' lock gives no sign

    def _waiters(self, names: Collection[str]) -> frozenset[Path]:
        """The files of other live processes that wait for one of `names`; those of dead ones are removed."""
        found = (file for file in self._folder.iterdir() if file.suffix == f".{_WAITER}")
        holders = {file: self._holder(file) for file in found}
        for file in holders:
            # What kill -9 left would be read before every call. The pid is in the name: a file may be half written.
            pid = file.name.split(".")[-2]
            if pid.isdigit() and not psutil.pid_exists(int(pid)):
                file.unlink(missing_ok=True)
        return frozenset(file for file, (name, pid) in holders.items() if name in names and pid not in (0, os.getpid()))

    @cached_property
    def _folder(self) -> Path:
        folder = self._given or runtime_dir()
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @cached_property
    def _self(self) -> dict[str, float]:
        return {"pid": os.getpid(), "born": psutil.Process().create_time()}

    def _lock(self, name: str) -> filelock.FileLock:
        if name not in self._locks:  # kept, because a call on a large host takes many
            self._locks[name] = filelock.FileLock(self._file(name, "lock"))
        return self._locks[name]

    def _file(self, name: str, suffix: str) -> Path:
        return self._folder / f"{re.sub(r'[^A-Za-z0-9.-]', '_', name)}.{suffix}"

    def _holder(self, file: Path) -> tuple[str, int]:
        """Name and pid of a live holder; pid 0 when there is none (it died, or is just taking or giving back)."""
        try:
            about = json.loads(file.read_text())
            born = psutil.Process(about["pid"]).create_time()
        except (OSError, ValueError, psutil.Error):
            return "", 0
        return str(about["name"]), int(about["pid"]) if born == about["born"] else 0
