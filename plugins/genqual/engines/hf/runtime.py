"""Torch as a rank needs it: settings, synchronisation, memory, out of memory. No model and no transformers."""

from __future__ import annotations

import ctypes
import errno
import functools
import gc
import os
import resource
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

import psutil
import torch

from genqual.cases import compute_dtype
from genqual.dtypes import FORMATS
from genqual.engines.base import LoadRequest, Memory
from genqual.engines.hf import preflight
from genqual.engines.hf.smaps import program_bytes
from genqual.errors import OutOfMemory

DTYPES: Final[dict[str, torch.dtype]] = {name: getattr(torch, one.torch) for name, one in FORMATS.items()}


def dtype_of(precision: str) -> torch.dtype:
    """torch's dtype of activations under a declared precision, and of weights that a scheme leaves as they are."""
    return DTYPES[compute_dtype(precision)]


BACKENDS: Final = {"cpu": "gloo", "cuda": "nccl", "hpu": "hccl", "xpu": "xccl"}  # torch.distributed's, by device

# How allocators say it in a plain RuntimeError; accelerators have a type of their own.
_ALLOCATOR_WORDS: Final = ("can't allocate memory", "not enough memory", "std::bad_alloc", "out of memory")

_DISK_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

P = ParamSpec("P")
R = TypeVar("R")


def setup(request: LoadRequest) -> None:
    """Make this process compute as `request` says: threads, no gradient, full fp32, no autotuned choice of kernels.

    `torch.use_deterministic_algorithms` stays off: it fills every fresh tensor, which would be timed.
    """
    preflight.limit_host_memory(request)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic cuBLAS for a few MB
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "0")
    torch.set_num_threads(request.threads)
    if torch.get_num_interop_threads() != 1:  # it may be set once, before any parallel work; a second load is fine
        torch.set_num_interop_threads(1)
    torch.set_grad_enabled(False)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    if request.device == "hpu":
        import habana_frameworks.torch.core  # noqa: F401  importing it registers the device with torch
    if request.device != "cpu":
        accelerator(request.device).set_device(request.local_rank % accelerator(request.device).device_count())


def accelerator(device: str) -> Any:
    """The module of a device that is not the CPU: `torch.cuda`, `torch.xpu`, `torch.hpu`."""
    return getattr(torch, device)


def place(request: LoadRequest) -> torch.device:
    """Where this rank's tensors live."""
    if request.device == "cpu":
        return torch.device("cpu")
    return torch.device(request.device, accelerator(request.device).current_device())


def synchronise(device: str) -> None:
    """Wait until the device has done what it was given. Nothing to wait for on a CPU."""
    if device != "cpu":
        accelerator(device).synchronize()


def fp32_is_exact(device: torch.device) -> bool:
    """Whether an fp32 matrix product keeps 24 bits, tried: 1 + 2^-20 is lost in TF32, bf16 and fp16, and by 2x bf16."""
    size = 128
    fine = torch.full((size, size), 1.0 + 2.0**-20, dtype=torch.float32, device=device)
    unit = torch.eye(size, dtype=torch.float32, device=device)
    return bool(torch.equal(fine @ unit, fine))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` is how torch, an allocator or Python says that memory ran out."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _ALLOCATOR_WORDS)


def release(device: str) -> None:
    """Give back what nothing refers to any more, so that the group can go on after an OOM."""
    gc.collect()
    if device in {"cuda", "xpu"}:
        accelerator(device).empty_cache()


def mapping_oom(method: Callable[P, R]) -> Callable[P, R]:
    """Decorate a method of HfEngine: running out of memory becomes OutOfMemory, and what the method held is let go.

    The frames are cleared and the new error has no context: either would keep the tensors that did not fit alive.
    """

    @functools.wraps(method)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(*args, **kwargs)
        except (RuntimeError, MemoryError, OSError) as error:
            if isinstance(error, OSError) and error.errno in _DISK_FULL:
                raise OutOfMemory(
                    f"{method.__name__} filled a disk: {error}; make room, or offload to another"
                ) from error
            if not is_out_of_memory(error):
                raise
            message = f"{method.__name__} ran out of memory: {(str(error) or type(error).__name__).splitlines()[0]}"
            traceback.clear_frames(error.__traceback__)
        engine: Any = args[0]
        engine.drop_buffers()
        release(engine.device)
        raise OutOfMemory(f"{message}. Use a smaller batch, shorter inputs, another dtype or more ranks.")

    return guarded


def held_bytes(device: str) -> int:
    """What this rank holds now where its memory is the host's, and 0 elsewhere: what is imported is in host memory."""
    return _host_memory(reset=False).current if device == "cpu" else 0


def read_memory(device: str, *, reset: bool = False, trim: bool = False, imports: int = 0) -> Memory:
    """Peak and current bytes of this rank; with `reset`, the next peak counts from now.

    `trim` first gives the pages of freed blocks back, which glibc keeps for later: they are of what ran before, not of
    what will. Without it BLOOM's fourth workload read half as much again as it does with it.
    `imports` are the bytes that imported software holds, which is no more the run's than a program's own files are:
    transformers imports what else it finds installed, and one environment holds 30 MB more than another for that.
    """
    if device == "cpu":
        if trim and (give_back := getattr(ctypes.CDLL(None), "malloc_trim", None)):
            give_back(0)
        found = _host_memory(reset=reset)
        if not imports:
            return found
        source = f"{found.source}, less what was held after the imports"
        return Memory(max(0, found.peak - imports), max(0, found.current - imports), source)
    module = accelerator(device)
    found = Memory(
        peak=int(module.max_memory_allocated()),
        current=int(module.memory_allocated()),
        source=f"torch.{device}.max_memory_allocated",
    )
    if reset:
        module.reset_peak_memory_stats()
    return found


def _host_memory(*, reset: bool) -> Memory:
    status, clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not status.is_file():
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        return Memory(peak=peak, current=peak, source="ru_maxrss of getrusage, cannot be reset")
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
    peak, current = (int(fields[name].split()[0]) * 1024 for name in ("VmHWM", "VmRSS"))
    source = "VmHWM of /proc/self/status"
    shared = program_bytes(psutil.Process())
    if shared is not None:
        peak, current = max(peak, current) - shared, current - shared
        source += ", less the mapped files of programs and libraries"
    if reset:
        try:
            clear.write_text("5")
        except OSError as error:  # a container may forbid it: the peak is then of the whole process, and says so
            source += f", not reset ({error.strerror})"
    return Memory(peak=peak, current=current, source=source)
