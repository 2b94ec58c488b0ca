"""What a rank group is made of, fixed before it starts. No process is started here, and no torch is imported."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genqual import digest
from genqual.cases import Case, Json
from genqual.devices.base import Placement
from genqual.devices.registry import device
from genqual.engines.registry import engine
from genqual.models.registry import resolve
from genqual.models.spec import ModelSpec
from genqual.models.weights import local
from genqual.moved import former
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
    former_names: bool = False  # the ranks run a build from before the move, which knows modules by former names
    deadlines: Deadlines = field(default_factory=Deadlines)

    @property
    def starter(self) -> str:
        """The launcher that is used."""
        if self.launcher != "auto":
            return self.launcher
        return "torchrun" if self.case.ranks > 1 else "none"

    def name(self, entry: str) -> str:
        """`package.module:name` as the ranks of this plan know it."""
        return former(entry) if self.former_names else entry

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
        return digest.of_text(json.dumps(parts, sort_keys=True))


def plan(case: Case, logs: Path, **changes: Any) -> GroupPlan:
    """The group of `case` as its device and its engine's spec say; `changes` replace fields of the plan.

    The one place where a case becomes a plan. `options` among the changes are added to those of the engine's spec.
    Raises BadInput on an unknown device, engine or model, and where the device has too few cores or cards.
    """
    place, spec = device(case.device), engine(case.engine)
    values: dict[str, Any] = {
        "implementation": spec.implementation,
        "torch_device": place.torch_device,
        "backend": place.backend,
        "tier": spec.tier,
        "exclusive": place.exclusive,
        **changes,
    }
    values["options"] = {**spec.options, **changes.get("options", {})}
    if "model" not in values:
        values["model"] = local(resolve(case.model))  # the very files whose hash finds the reference
    if "placement" not in values:
        values["placement"] = place.place(case.ranks, case.cores_per_rank)
    return GroupPlan(case=case, logs=logs, **values)
