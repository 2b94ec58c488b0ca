"""Files that are whole or not there: a temporary name, fsync, a rename, fsync of the directory.

The standard library only, at the bottom of the tree: models, references, baselines and records are all written so.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


def write_once(path: Path, data: bytes) -> bool:
    """Make `path` hold `data`, durably; False where it already does. Raises OSError, leaving no part behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        if path.read_bytes() == data:
            return False
    write_whole(path, data)
    return True


def write_whole(path: Path, data: bytes) -> None:
    """Replace `path` by `data`, durably. Raises OSError, leaving what was there and no part behind."""
    with replacing(path, synced=True) as temporary:
        write_synced(temporary, data)


def write_asked(path: Path, data: bytes) -> None:
    """Write `data` where somebody asked for it: whole or not at all into a file, as it comes into a device or a pipe.

    Raises OSError. A rename would put a file in the place of /dev/stdout.
    """
    if path.exists() and not path.is_file():
        path.write_bytes(data)
    else:
        write_whole(path, data)


@contextlib.contextmanager
def replacing(path: Path, *, synced: bool = False) -> Iterator[Path]:
    """A name beside `path` to write to; when the block ends, what is there takes its place, durably.

    For libraries that write a file themselves. `synced`: the block sees to it that the bytes are on the medium. When
    the block raises, `path` is what it was, and no part stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        if not synced:
            _sync(temporary)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def write_synced(path: Path, data: bytes) -> None:
    """Make the new file `path`, its bytes on the medium when this returns."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(directory: Path) -> None:
    """Make renames in `directory` survive a power cut, where its file system can."""
    try:
        _sync(directory)
    except OSError as error:
        # Some network file systems cannot sync a directory; their rename is already on the server.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
