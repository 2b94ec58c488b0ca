"""What a rank group is made of, fixed before it starts. Pure: no process is started here, no torch."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

from genqual.cases import Case, Json
from genqual.devices.base import Placement
from genqual.models.spec import ModelSpec
from genqual.ranks.deadlines import Deadlines


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """Everything that a launcher and the ranks need to know. Equal `key`s may share one live group."""

    case: Case
    implementation: str  # of the engine, "package.module:Class"
    model: ModelSpec
    placement: Placement
    torch_device: str
    backend: str  # of torch.distributed; the ranks find it in GENQUAL_BACKEND
    logs: Path  # a folder for each group is made in it
    options: dict[str, Json] = field(default_factory=dict)
    tier: str = "logits"  # of the engine: what can be asked of it
    exclusive: bool = False  # the device serves one process at a time: its lease is held while the group lives
    launcher: str = "auto"  # none for one rank, torchrun for several
    launcher_arguments: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    python: str = sys.executable  # of the ranks; another environment's for `--baseline-from`
    path: tuple[str, ...] = ()  # searched before what `python` has installed
    deadlines: Deadlines = field(default_factory=Deadlines)

    @property
    def starter(self) -> str:
        """The launcher that is used."""
        if self.launcher != "auto":
            return self.launcher
        return "torchrun" if self.case.ranks > 1 else "none"

    @property
    def key(self) -> str:
        """Hash of what shapes the processes; logs and deadlines do not."""
        parts = {
            "case": self.case.as_json(),
            "implementation": self.implementation,
            "model": self.model.as_json(),
            "placement": [self.placement.env, self.placement.cores, self.placement.lease],
            "device": [self.torch_device, self.backend, self.exclusive],
            "options": self.options,
            "launcher": [self.starter, self.launcher_arguments, self.hosts],
            "build": [self.python, self.path],
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
