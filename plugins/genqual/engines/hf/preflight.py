"""Will it fit: bytes needed against what is there, said before anything is loaded. No torch, reads headers only."""

from __future__ import annotations

import math
import re
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from genqual.cases import Json, compute_dtype
from genqual.devices import cgroups
from genqual.dtypes import FORMATS
from genqual.engines.base import LoadRequest
from genqual.errors import BadInput, OutOfMemory
from genqual.models import embedded, safetensor, weights
from genqual.models.spec import ModelSpec

_UNITS: Final = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_ROOT: Final = Path("/")


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes of host memory that may still be taken, and what says so; all ranks of a host share it, if `shared`."""

    free: int
    limit: str
    shared: bool = True
    detail: str = ""

    def of_rank(self, local_size: int) -> float:
        """Bytes for each of `local_size` ranks of this host."""
        return self.free / (local_size if self.shared else 1)


def byte_count(text: Json, option: str) -> int:
    """`700MB`, `1.5GiB` or a number as bytes. Raises BadInput that names the option."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]i?B)?", str(text), flags=re.IGNORECASE)
    if not found:
        raise BadInput(f"{option}={text}: must be bytes, such as 700MB or 1.5GiB")
    return int(float(found[1]) * _UNITS[(found[2] or "").upper()])


def limit_host_memory(request: LoadRequest) -> None:
    """Hold this rank to option `host_memory`: the kernel refuses what it would allocate beyond (RLIMIT_DATA)."""
    wanted = request.options.get("host_memory")
    if wanted is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (byte_count(wanted, "host_memory"), hard))


def room(local_size: int = 1) -> Room:
    """What the tightest limit leaves to each of `local_size` ranks: the host's memory, a control group, the process."""
    found = [Room(psutil.virtual_memory().available, "the host's memory")]
    group = cgroups.memory_room(_ROOT)
    if group is not None:
        said = f" ({group.file.name} of {group.limit / 2**20:,.0f} MiB)"
        found.append(Room(group.free, "the control group's memory limit", detail=said))
    own, _ = resource.getrlimit(resource.RLIMIT_DATA)
    if own != resource.RLIM_INFINITY:
        found.append(Room(max(0, own - _data_bytes()), "this process's limit (RLIMIT_DATA)", shared=False))
    return min(found, key=lambda one: one.of_rank(local_size))


def check(request: LoadRequest, engine: str, share: float) -> dict[str, Json]:
    """Refuse to load what cannot fit, before a byte is read; else what was found, for `inspect`.

    `share` is how much of the whole model this rank holds in host memory while it loads, all ranks of a host together
    being what the host must bear. Raises OutOfMemory with need, room and the next step. Unknown sizes are not judged.
    """
    whole = checkpoint_bytes(request.model, request.dtype)
    need, here = int(whole * share), room(request.local_size)
    if whole and need > here.of_rank(request.local_size):
        raise OutOfMemory(
            f"{engine} needs {need / 2**20:,.0f} MiB a rank to load {request.model.name} in {request.dtype} "
            f"({request.local_size} rank(s) on this host), and {here.limit}{here.detail} leaves "
            f"{here.free / 2**20:,.0f} MiB: take more ranks, a narrower dtype, or an engine that offloads "
            "(accelerate:placement=disk, deepspeed-zero:offload=nvme)"
        )
    return {"model_bytes": whole, "rank_bytes": need, "free_bytes": here.free, "limit": here.limit}


def _data_bytes() -> int:
    """What RLIMIT_DATA counts of this process."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(fields["VmData"].split()[0]) * 1024


def checkpoint_bytes(model: ModelSpec, precision: str) -> int:
    """Bytes of all weights of `model` in the dtype that `precision` loads, before any quantisation; 0 when unknown."""
    return FORMATS[compute_dtype(precision)].bytes * sum(_sizes(model))


def largest_tensor(model: ModelSpec) -> int:
    """Numbers in the largest weight of `model`; a generous guess when it cannot be read here (hub, GGUF)."""
    return max(_sizes(model), default=1 << 28)


def _sizes(model: ModelSpec) -> list[int]:
    if model.source == "embedded":
        return [math.prod(shape) for shape in embedded.shapes(model.location).values()]
    if model.source == "directory":
        try:
            return [math.prod(shape) for shape in weights.shapes(model).values()]
        except BadInput:  # quantised in a way that is not known here: as many numbers as are stored
            return [math.prod(entry.shape) for entry in safetensor.checkpoint(Path(model.location)).values()]
    return []
