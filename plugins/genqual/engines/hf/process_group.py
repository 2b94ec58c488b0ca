"""The process group of the ranks, and what transformers wants to hear about it. No model."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch.distributed as dist
from transformers.distributed import DistributedConfig

from genqual.engines.base import LoadRequest
from genqual.engines.hf.runtime import BACKENDS
from genqual.errors import Unsupported


def join(request: LoadRequest) -> None:
    """Join the group that the launcher described in the environment, once. Raises Unsupported without a backend."""
    if dist.is_initialized():
        return
    backend = BACKENDS[request.device]
    if not dist.is_backend_available(backend):
        raise Unsupported(f"this torch has no {backend}, which ranks on {request.device} need to talk to each other")
    dist.init_process_group(backend, rank=request.rank, world_size=request.world_size)


def join_alone(request: LoadRequest) -> None:
    """Make a group of the only rank, for upstream code that wants one; several ranks join their own."""
    if request.world_size == 1 and not dist.is_initialized():
        store = dist.HashStore()  # type: ignore[attr-defined]  # torch forgot to list it
        dist.init_process_group(BACKENDS[request.device], rank=0, world_size=1, store=store)


def plan_auto(ranks: int) -> dict[str, Any]:
    """Arguments of from_pretrained for the model's own plan over `ranks`; transformers 5 moved them into a config."""
    if "tp_plan" in {field.name for field in dataclasses.fields(DistributedConfig)}:
        return {"distributed_config": DistributedConfig(tp_plan="auto", tp_size=ranks)}
    return {"tp_plan": "auto"}
