"""How far a run is from what the memory and the matrix units could do: MBU and MFU. Pure: the standard library only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from genqual.cases import Workload
from genqual.engines.base import Loaded
from genqual.errors import BadInput
from genqual.metrics.model_reads import ALL, ModelReads


@dataclass(frozen=True, slots=True)
class Read:
    """The best read rate over a buffer of `size` bytes, read again and again by `kernel`."""

    size: int
    bytes_per_s: float
    kernel: str


@dataclass(frozen=True, slots=True)
class Roofline:
    """What `performance.roofline:probe` measured on one rank while every other rank of its group did the same."""

    reads: tuple[Read, ...]  # by size, ascending
    flop_per_s: float
    gemm_about: str  # "GEMM bf16 2048 x 2048 x 2048 on cpu, 1 thread"
    cache_bytes: int | None  # the largest cache that may serve this rank; None: unknown

    def __post_init__(self) -> None:
        rates = [self.flop_per_s, *(read.bytes_per_s for read in self.reads)]
        if not self.reads or not all(math.isfinite(rate) and rate > 0.0 for rate in rates):
            raise BadInput(f"roofline {rates}: every rate must be finite and above zero; run the probe again")
        if list(self.reads) != sorted(self.reads, key=lambda read: read.size):
            raise BadInput("roofline: reads must be sorted by size")

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Roofline:
        """From the probe's answer. Raises KeyError when it is not one, BadInput when its numbers cannot be."""
        best = data["gemm"][data["best_gemm"]]
        return cls(
            reads=tuple(Read(one["bytes"], one["bytes_per_s"], one["kernel"]) for one in data["read"]),
            flop_per_s=best["flop_per_s"],
            gemm_about=f"{best['kernel']} on {data['device']}, {data['threads']} thread(s)",
            cache_bytes=data["cache_bytes"],
        )

    def bandwidth(self, size: int) -> Read:
        """The fastest measured read of a buffer no smaller than `size` bytes, or of the largest buffer.

        Weights that fit a cache are compared with a buffer that fits it too; weights larger than every buffer with the
        largest. "Fastest" matters on an accelerator, where small buffers measure the launch of a kernel.
        """
        fitting = [read for read in self.reads if read.size >= size]
        return max(fitting, key=lambda read: read.bytes_per_s) if fitting else self.reads[-1]


def kv_bytes_read(workload: Workload, loaded: Loaded, reads: ModelReads = ALL) -> float:
    """Bytes of keys, values and states that a decode step of this rank reads, the mean over the steps of one run.

    Step t (1 .. n-1) attends to the input and to the t-1 tokens generated before the one it is fed, so the mean length
    is input + (n - 2) / 2; a recurrent state is read whole in each step, whatever the length. Windows and latents are
    as `reads` has them. Copies that an engine makes of its cache are overhead and not counted.
    """
    lengths = range(workload.input_length, workload.input_length + max(1, workload.new_tokens - 1))
    return workload.batch * (reads.kv_bytes(lengths, loaded.kv_bytes_per_token) + loaded.state_bytes)


def step_bandwidth(
    workload: Workload, loaded: Sequence[Loaded], rooflines: Sequence[Roofline], reads: ModelReads = ALL
) -> tuple[float, float, str]:
    """Bytes that one decode step of all ranks reads, bytes/s that the ranks could read, and which bandwidth that is.

    MBU = sum(weight bytes + KV bytes) / (TPOT x sum(bandwidth)). All weights a rank holds are counted as read once a
    step, as is usual, but for the experts that no row of the batch chose; an embedding table that is not also the head
    is only looked up, so MBU is then an overestimate.
    """
    moved, bandwidth = 0.0, 0.0
    notes: set[str] = {reads.about} if reads.about else set()
    share = reads.active_share(workload.batch)
    for rank, roofline in zip(loaded, rooflines, strict=True):
        wanted = share * rank.weight_bytes + kv_bytes_read(workload, rank, reads)
        read = roofline.bandwidth(math.ceil(wanted))
        moved += wanted
        bandwidth += read.bytes_per_s
        notes.add(f"{_size(wanted)} a step against the bandwidth of {read.kernel} over {_size(read.size)}")
        if roofline.cache_bytes is not None and wanted <= roofline.cache_bytes:
            notes.add(f"fits the cache of {_size(roofline.cache_bytes)}: a bandwidth of the cache, not of the memory")
        elif roofline.cache_bytes is None:
            notes.add("cache size unknown")
    return moved, bandwidth, "; ".join(sorted(notes))


def mfu(
    ttft_s: float,
    workload: Workload,
    loaded: Sequence[Loaded],
    rooflines: Sequence[Roofline],
    reads: ModelReads = ALL,
) -> float:
    """2 x active parameters x batch x input length / (TTFT x GEMM FLOP/s), summed over ranks.

    Two floating-point operations a parameter and token, as is usual: attention scores are left out (short inputs), and
    embedding tables are counted although they are looked up. Experts that a token does not choose are not counted.
    """
    active = reads.active_share(1) * sum(rank.parameters for rank in loaded)
    work = 2.0 * active * workload.batch * workload.input_length
    return work / (ttft_s * sum(roofline.flop_per_s for roofline in rooflines))


def _size(count: float) -> str:
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count:.0f} B"
