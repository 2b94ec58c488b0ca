"""Build DeepSpeed's operators ahead: `python -m genqual.engines.deepspeed.prebuild [async_io]`. CPU only.

DeepSpeed compiles it at first use, silently, inside whichever rank comes first. Here one process builds, says so, and
the others wait for its lock. Without a C++ compiler DeepSpeed falls back to gloo, and `inspect` says so.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import psutil
from filelock import FileLock, Timeout

from genqual.engines.hf.fast_import import uncollected
from genqual.errors import EngineFailed

Outcome = Literal["built", "cached", "no compiler", "not offered"]

ABOUT: Final = "half a minute to two minutes"
WAIT_S: Final = 900.0  # a build by another process; several times what a slow, busy host took
_STALE_S: Final = 1800.0
_MOMENT_S: Final = 20.0
_LOOK_S: Final = 0.5


def deepspeed_on_cpu() -> Any:
    """The deepspeed package, told to use the CPU and to keep to warnings. Takes seconds the first time."""
    os.environ["DS_ACCELERATOR"] = "cpu"
    with uncollected():
        return importlib.import_module("deepspeed")


def find_tools() -> bool:
    """Whether a C++ compiler and ninja are here; ninja from its wheel is put on the path, which no venv need be."""
    if shutil.which("ninja") is None:
        try:
            os.environ["PATH"] += os.pathsep + str(importlib.import_module("ninja").BIN_DIR)
        except ImportError:
            return False
    return shutil.which(os.environ.get("CXX", "g++")) is not None and shutil.which("ninja") is not None


def prebuild(progress: Callable[[str], None]) -> Outcome:
    """Build the all-reduce unless it is there, telling `progress` what happens. Raises EngineFailed when it cannot."""
    return _build("ShareMemCommBuilder", "shared-memory all-reduce", progress)


def async_io(progress: Callable[[str], None]) -> Outcome:
    """The same for `async_io`, by which ZeRO reads from and writes to NVMe; "not offered" without libaio's headers."""
    return _build("AsyncIOBuilder", "async_io", progress)


def without_shared_memory() -> None:
    """Keep DeepSpeed from its shared-memory all-reduce: initialised only when all ranks share a host, yet called."""
    importlib.import_module("deepspeed.comm")
    sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None  # type: ignore[attr-defined]


def quote_libraries() -> None:
    """Let torch's C++ builds in this process, Inductor's too, link below a path with a space in it.

    torch quotes the folders of its headers and not that of its libraries: the linker would take the parts of the path
    for files of their own.
    """
    from torch.utils import cpp_extension

    cpp_extension.TORCH_LIB_PATH = shlex.quote(str(Path(cpp_extension.__file__).parents[1] / "lib"))


def _build(builder_name: str, what: str, progress: Callable[[str], None]) -> Outcome:
    deepspeed_on_cpu()
    from deepspeed.accelerator import get_accelerator
    from torch.utils.cpp_extension import _get_build_directory, include_paths

    quote_libraries()
    if not find_tools():
        return "no compiler"
    builder = get_accelerator().create_op_builder(builder_name)
    if builder is None or not builder.is_compatible(verbose=False):
        return "not offered"
    folder = Path(_get_build_directory(builder.name, verbose=False))
    library = folder / f"{builder.name}.so"
    lock = FileLock(folder.parent / f"{builder.name}.genqual.lock")
    try:
        with lock.acquire(timeout=WAIT_S):
            _wait_for_baton(folder / "lock", progress)
            cached = library.is_file() and not _anothers(folder, include_paths()[0])
            if not cached:
                progress(f"building DeepSpeed's {what} into {folder} ({ABOUT}, once an environment)")
                if library.is_file():
                    progress("another environment's torch built what is there; TORCH_EXTENSIONS_DIR keeps them apart")
            start = time.perf_counter()
            builder.load(verbose=False)  # a moment when it is there: ninja looks at the dates
            if not cached:
                progress(f"built in {time.perf_counter() - start:.0f} s")
    except Timeout as error:
        raise EngineFailed(
            f"another process has been building {library} for {WAIT_S:.0f} s; look for it, or remove {lock.lock_file}"
        ) from error
    return "cached" if cached else "built"


def _anothers(folder: Path, headers: str) -> bool:
    """Whether what lies in `folder` was compiled with other headers of torch: ninja will then compile it anew."""
    try:
        text = (folder / "build.ninja").read_text(encoding="utf-8")
    except FileNotFoundError:
        return True
    ways = {re.escape(way) for way in (headers, shlex.quote(headers))}
    return re.search(rf"(?:^|\s|-isystem|-I)(?:{'|'.join(ways)})(?:\s|$)", text) is None


def _wait_for_baton(baton: Path, progress: Callable[[str], None]) -> None:
    """Wait until torch's own lock is gone. Raises EngineFailed after `WAIT_S`.

    torch would wait for ever for a build that was killed, and a lock that is young does not tell yet whether it was.
    """
    until, told = time.monotonic() + WAIT_S, False
    while True:
        _drop_stale_baton(baton, progress)
        if not baton.exists():
            return
        if not told:
            progress(f"waiting for the build that holds {baton}")
            told = True
        if time.monotonic() > until:
            raise EngineFailed(f"a build has held {baton} for {WAIT_S:.0f} s; look for it, or remove that file")
        time.sleep(_LOOK_S)


def _drop_stale_baton(baton: Path, progress: Callable[[str], None]) -> None:
    """Remove torch's own lock when its owner must be dead.

    Whoever builds there has a compiler running in that folder, but for a moment at either end.
    """
    try:
        age = time.time() - baton.stat().st_mtime
    except FileNotFoundError:
        return
    if age > _STALE_S or (age > _MOMENT_S and not _builders(baton.parent)):
        progress(f"removing {baton}, left behind {age / 60:.0f} minutes ago by a build that was killed")
        baton.unlink(missing_ok=True)


def _builders(folder: Path) -> list[int]:
    """Processes that work in `folder`, as ninja and the compilers it starts do; those of others may be hidden."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cwd() == str(folder):
                found.append(process.pid)
    return found


def to_stderr(text: str) -> None:
    """A line for whoever waits; standard output may be a channel."""
    print(f"genqual: {text}", file=sys.stderr, flush=True)  # noqa: T201  progress of a build is for the terminal


def main(arguments: Sequence[str]) -> int:
    """Build the all-reduce, and async_io if it is named; say what came of it. No outcome is a failure."""
    outcome = prebuild(to_stderr)
    said = {
        "built": "DeepSpeed's shared-memory all-reduce is ready",
        "cached": "DeepSpeed's shared-memory all-reduce was built before: nothing to do",
        "no compiler": "no C++ compiler or no ninja: DeepSpeed will use gloo only; install both for shared memory",
        "not offered": "this DeepSpeed has no shared-memory all-reduce for this platform: it will use gloo only",
    }
    to_stderr(said[outcome])
    if "async_io" in arguments:
        outcome = async_io(to_stderr)
        built = outcome in ("built", "cached")
        to_stderr(f"DeepSpeed's async_io is {'ready' if built else f'not to be had ({outcome}): no NVMe offload'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
