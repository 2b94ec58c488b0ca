"""Measure what this rank's memory and matrix units can do. Torch; runs in a rank, beside the engine it bounds."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import psutil
import torch

from genqual.dtypes import FORMATS
from genqual.errors import BadInput

_DTYPES: Final[dict[str, torch.dtype]] = {name: getattr(torch, one.torch) for name, one in FORMATS.items()}
_MIB: Final = 1 << 20
_READ_SIZES: Final = tuple(n * _MIB for n in (1, 4, 16, 64, 256))
_LARGEST: Final = 2048 * _MIB
_MEMORY_SHARE: Final = 8  # at most one part in eight of the free memory is taken for the largest buffer
_COLUMNS: Final = 1024
_GEMM_SIZES_CPU: Final = (256, 512, 1024, 2048)
_GEMM_SIZES: Final = (1024, 2048, 4096, 8192)
_FEWEST: Final = 3
_SAMPLE_S: Final = 2e-3  # a timed sample is this long at least, so that starting a kernel is little of it


def probe(engine: Any = None, *, dtype: str, threads: int, seconds: float = 1.0) -> dict[str, Any]:
    """Read bandwidth over buffers of several sizes and GEMM FLOP/s in `dtype`, on the device of `engine.model`.

    Called in every rank of a group at once, so that ranks which share a memory bus share it here too. Without an
    engine the CPU is measured. `seconds` is the time spent measuring; filling the largest buffer comes on top. Each
    number is the best of several samples, because a bound is asked for; the median stands beside it. Answers JSON:

    - `read`: by size, `bytes`, `bytes_per_s` of the fastest kernel, `median_bytes_per_s`, `kernel`, `samples`
    - `gemm`: by size, `n` (n x n x n), `flop_per_s`, `median_flop_per_s`, `kernel`, `samples`; `best_gemm` its index
    - `cache_bytes`: the largest cache, null when unknown; `beyond_cache`: whether the largest buffer is twice that, so
      that its bandwidth is the memory's
    - `device`, `dtype`, `threads`, `seconds`

    Leaves threads as they were and touches no random state. Raises BadInput on an unknown dtype, threads or seconds.
    """
    if dtype not in _DTYPES:
        raise BadInput(f"dtype {dtype!r}: the probe knows {', '.join(_DTYPES)}")
    if threads < 1 or not (math.isfinite(seconds) and seconds > 0.0):
        raise BadInput(f"threads {threads}, seconds {seconds}: at least one thread and a time above zero")
    device = _device(engine)
    cache = _cache_bytes(device)
    started = time.perf_counter()
    with _threads(threads), torch.inference_mode():
        read = _read_rates(device, _DTYPES[dtype], cache, seconds / 2)
        gemm = _gemm_rates(device, _DTYPES[dtype], seconds / 2)
    return {
        "device": str(device),
        "dtype": dtype,
        "threads": threads,
        "seconds": time.perf_counter() - started,
        "cache_bytes": cache,
        "beyond_cache": None if cache is None else read[-1]["bytes"] >= 2 * cache,
        "read": read,
        "gemm": gemm,
        "best_gemm": max(range(len(gemm)), key=lambda index: gemm[index]["flop_per_s"]),
    }


def _read_rates(device: torch.device, dtype: torch.dtype, cache: int | None, budget_s: float) -> list[dict[str, Any]]:
    buffer = _buffer(device, cache)
    sizes = [size for size in _READ_SIZES if size < buffer.numel()] + [buffer.numel()]
    vector = torch.ones(_COLUMNS, dtype=dtype, device=device)
    rates = []
    for size in sizes:
        flat = buffer[:size].view(torch.float32)
        matrix = buffer[:size].view(dtype).view(-1, _COLUMNS)
        kernels: dict[str, Callable[[], torch.Tensor]] = {
            "sum float32": flat.sum,
            f"gemv {str(dtype).removeprefix('torch.')}": partial(torch.mv, matrix, vector),
        }
        found: list[dict[str, Any]] = []
        for name, kernel in kernels.items():
            samples = _time(kernel, device, budget_s / len(sizes) / len(kernels))
            found.append(
                {
                    "bytes": size,
                    "bytes_per_s": size / min(samples),
                    "median_bytes_per_s": size / statistics.median(samples),
                    "kernel": name,
                    "samples": len(samples),
                }
            )
        rates.append(max(found, key=lambda one: one["bytes_per_s"]))
    return rates


def _gemm_rates(device: torch.device, dtype: torch.dtype, budget_s: float) -> list[dict[str, Any]]:
    """By size, the faster of two layouts. A layer keeps its weights transposed; where the processor has no kernels of
    the dtype, a library's fallback is many times faster that way round, and a bound must not lie below the layers.
    """
    sizes = _GEMM_SIZES_CPU if device.type == "cpu" else _GEMM_SIZES
    ends = time.perf_counter() + budget_s
    rates: list[dict[str, Any]] = []
    layouts = ["GEMM", "GEMM of weights as a layer keeps them,"]
    for index, n in enumerate(sizes):
        left = ends - time.perf_counter()
        # Products are needed to warm up, and a few to time; a size that would not fit the time left is not begun.
        if rates and len(layouts) * (1 + _FEWEST) * 2 * n**3 / rates[-1]["median_flop_per_s"] > left:
            break
        # Not random, so that the engine's generator is left alone; not constant, so that a GPU draws its usual power.
        factor = torch.linspace(-1.0, 1.0, n * n, device=device).to(dtype).view(n, n)
        product = torch.empty_like(factor)
        found: dict[str, dict[str, Any]] = {}
        for layout in layouts:
            samples = _time(
                partial(torch.mm, factor, factor if layout == "GEMM" else factor.t(), out=product),
                device,
                max(left, 0.0) / (len(sizes) - index) / len(layouts),
            )
            found[layout] = {
                "n": n,
                "flop_per_s": 2.0 * n**3 / min(samples),
                "median_flop_per_s": 2.0 * n**3 / statistics.median(samples),
                "kernel": f"{layout} {str(dtype).removeprefix('torch.')} {n} x {n} x {n}",
                "samples": len(samples),
            }
        rates.append(max(found.values(), key=lambda one: float(one["flop_per_s"])))
        # Half as fast at one size is not faster at the next, and its samples would take the time of the other's.
        layouts = [name for name, one in found.items() if one["flop_per_s"] > rates[-1]["flop_per_s"] / 2]
    return rates


def _time(call: Callable[[], object], device: torch.device, budget_s: float) -> list[float]:
    """Seconds of one `call`, synchronised; at least three samples, as many more as the budget allows."""
    _sync(call, device, 1)
    once = _sync(call, device, 1)
    inner = max(1, math.ceil(_SAMPLE_S / once))
    samples = [once]
    ends = time.perf_counter() + budget_s - inner * once
    while len(samples) < _FEWEST or time.perf_counter() < ends:
        samples.append(_sync(call, device, inner) / inner)
    return samples


def _sync(call: Callable[[], object], device: torch.device, times: int) -> float:
    _synchronise(device)
    started = time.perf_counter()
    for _ in range(times):
        call()
    _synchronise(device)
    return time.perf_counter() - started


def _synchronise(device: torch.device) -> None:
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()  # torch.cuda, torch.xpu; habana_frameworks adds torch.hpu


def _buffer(device: torch.device, cache: int | None) -> torch.Tensor:
    """Bytes of ones, every page touched: twice the largest cache where memory allows, so that its reads leave it."""
    wanted = max(_READ_SIZES[-1], 1 << math.ceil(math.log2(2 * (cache or 1))))
    most = _free_bytes(device) // _MEMORY_SHARE
    size = max(_READ_SIZES[0], min(wanted, _LARGEST, most) // _MIB * _MIB)
    return torch.ones(size, dtype=torch.uint8, device=device)


def _free_bytes(device: torch.device) -> int:
    if device.type != "cpu":
        return int(getattr(torch, device.type).mem_get_info()[0])
    # All ranks of this host take their buffer at once; torchrun says how many they are.
    return psutil.virtual_memory().available // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _cache_bytes(device: torch.device) -> int | None:
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).L2_cache_size)
    if device.type != "cpu":
        return None
    sizes = [path.read_text().strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    return max((int(size[:-1]) * {"K": 1 << 10, "M": _MIB}[size[-1]] for size in sizes), default=None)


def _device(engine: Any) -> torch.device:
    if engine is None:
        return torch.device("cpu")
    # The head runs where the last parameters are; with offload or device_map="auto" the first ones may lie elsewhere.
    parameters: Any = getattr(engine.model, "parameters", tuple)()  # OpenVINO's model has none
    devices = [tensor.device for tensor in parameters if tensor.device.type != "meta"]
    return devices[-1] if devices else torch.device("cpu")


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
