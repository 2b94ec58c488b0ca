"""What a device must tell the pytest process. Never initialises the device and never imports torch."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final, Protocol

from genqual.cases import PROCESSORS, Json

_SHARE: Final = re.compile(r"-(\d+of)?\d+c(?=-|$)|-\d+g(?=-|$)")


@dataclass(frozen=True, slots=True)
class Presence:
    """What a probe found. `count` is where ranks can run: CPUs to bind one to, hyperthreads included, or cards."""

    count: int
    probe: str  # how we looked, as a person would repeat it: "/proc/cpuinfo", "hl-smi --query-aip=..."
    found: str  # what the probe said, one line

    @property
    def present(self) -> bool:
        return self.count > 0


def kind_of(class_id: str) -> str:
    """A hardware class; of a processor without its memory and the cores that are given to this process.

    What a rank answers depends on neither, though what it takes does.
    """
    return _SHARE.sub("", class_id) if class_id.partition("-")[0] in PROCESSORS else class_id


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the ranks of one group run: one entry a rank in `env` and in `cores` (empty: not bound)."""

    env: tuple[dict[str, str], ...]
    cores: tuple[tuple[int, ...], ...] = ()
    lease: tuple[str, ...] = ()  # names of what this group occupies while it computes; disjoint between groups

    @property
    def threads(self) -> int:
        """Threads a rank computes with: the CPUs it is bound to, else one."""
        return max(map(len, self.cores), default=1)


@dataclass(frozen=True, slots=True)
class HardwareIdentity:
    """The true hardware. `facts` is what a record keeps; `class_id` names the class without any host name.

    Two hosts share `class_id` when their latencies may be compared: same device model, count, memory size and ISA.
    """

    device: str
    class_id: str  # readable and stable, also a file name: "xeon-6-model-167-2c-amx-kvm"
    facts: dict[str, Json] = field(default_factory=dict)


class Device(Protocol):
    """A kind of hardware. One file an implementation, registered under the entry point group `genqual.devices`."""

    name: str  # the mark: xeon, cpu, cuda, hpu, xpu
    torch_device: str  # what a rank passes to torch: cpu, cuda, hpu, xpu
    backend: str  # torch.distributed backend: gloo, nccl, hccl, xccl
    summary: str  # one line for --help

    @property
    def native_dtype(self) -> str:
        """What `native` in a profile stands for: bf16 where the hardware computes in it, else fp32. Asks no driver."""
        ...

    @property
    def exclusive(self) -> bool:
        """True when a second process cannot open it while a group lives (Gaudi)."""
        ...

    def probe(self) -> Presence:
        """Is it here, how many, found how. Cheap, cached by the caller, never raises."""
        ...

    def identity(self) -> HardwareIdentity:
        """The hardware of this host. Called only when present."""
        ...

    def place(self, ranks: int, cores_per_rank: int, *, taken: frozenset[str] = frozenset()) -> Placement:
        """Where `ranks` ranks run, avoiding leases in `taken` when it can. Raises BadInput naming the count found."""
        ...

    def conditions(self) -> dict[str, Json]:
        """What disturbs a measurement right now: load, steal, clocks, throttle reasons. Cheap; unknown is null."""
        ...
