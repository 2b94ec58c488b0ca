"""`habana_frameworks.torch.distributed.hccl`: what torch calls hccl, between simulated cards of one host. No model.

Everything is gloo but the sum, which each layer of a sharded model asks for twice a token. gloo passes it round a ring:
between eight ranks 14 turns, each of which wakes a thread of every rank. With a core for each rank that is nothing, on
two shared cores it was nearly all of the time. Here each rank writes its part into shared memory and is woken once.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from typing import Any, Final

import torch
from torch.distributed import ProcessGroup, ProcessGroupGloo, ReduceOp, Work

HEAD: Final = 4096  # bytes before the slots, for the barrier
SLOT: Final = 1 << 20  # bytes of a rank's part; longer tensors go in several turns
SHARED: Final = 1  # PTHREAD_PROCESS_SHARED


class Done(Work):
    """A collective that is over when it returns."""

    def wait(self, timeout: Any = None) -> bool:
        return True


class Hccl(ProcessGroup):
    """The cards of one host: gloo, with a sum of its own."""

    def __init__(self, store: Any, rank: int, size: int, timeout: Any) -> None:
        super().__init__(rank, size)  # type: ignore[call-arg]
        self._gloo: Any = ProcessGroupGloo(store, rank, size, timeout)
        self._rank, self._size, self._turn = rank, size, 0
        self._libc = ctypes.CDLL(None)  # its calls let go of the interpreter's lock
        if rank == 0:
            file = os.memfd_create("hccl")  # goes with the last rank that holds it: nothing to clean up
            os.ftruncate(file, HEAD + 2 * size * SLOT)
            self._map(file)
            kind = ctypes.create_string_buffer(64)
            self._libc.pthread_barrierattr_init(kind)
            self._libc.pthread_barrierattr_setpshared(kind, SHARED)
            if code := self._libc.pthread_barrier_init(self._barrier, kind, size):
                raise OSError(code, os.strerror(code))
            store.set("memory", f"/proc/{os.getpid()}/fd/{file}")
        else:
            self._map(os.open(store.get("memory").decode(), os.O_RDWR))

    def _map(self, file: int) -> None:
        memory = mmap.mmap(file, 0)
        self._barrier = ctypes.byref(ctypes.c_char.from_buffer(memory))
        self._slots = torch.frombuffer(memory, dtype=torch.uint8, offset=HEAD).view(2, self._size, SLOT)

    def allreduce(self, tensors: list[torch.Tensor], opts: Any) -> Any:  # type: ignore[override]
        (tensor,) = tensors
        if opts.reduceOp != ReduceOp.SUM:
            return self._gloo.allreduce(tensors, opts)
        if not tensor.is_contiguous():
            raise ValueError("hccl: a tensor to be summed must be contiguous")
        with torch._C.DisableTorchFunction():  # no operator of the card's: nothing here is traced
            whole: Any = tensor.detach().view(-1)
            for part in whole.split(SLOT // tensor.element_size()):
                self._sum(part)
        return Done()

    def _sum(self, part: torch.Tensor) -> None:
        """`part` summed over all ranks in their order, so that each computes the same bits.

        One barrier is enough, for two turns have slots of their own: who writes into a turn's slots again has passed
        the barrier of the turn between, which everybody reaches after reading. A rank that dies leaves the others
        waiting here; pytest sees the death itself, and ends them.
        """
        slots = self._slots[self._turn % 2, :, : part.numel() * part.element_size()].view(part.dtype)
        self._turn += 1
        slots[self._rank].copy_(part)
        self._libc.pthread_barrier_wait(self._barrier)
        part.copy_(slots[0])
        for other in slots[1:]:
            part.add_(other)

    def size(self) -> int:
        return self._size

    def rank(self) -> int:
        return self._rank

    def getBackendName(self) -> str:
        return "hccl"


def _of_gloo(name: str) -> Any:
    def call(self: Hccl, *args: Any, **kwargs: Any) -> Any:
        return getattr(self._gloo, name)(*args, **kwargs)

    return call


for _name in (
    "allgather",
    "barrier",
    "broadcast",
    "gather",
    "reduce",
    "reduce_scatter",
    "scatter",
    "alltoall_base",
    "send",
    "recv",
):
    setattr(Hccl, _name, _of_gloo(_name))
