"""The `transformers-tp` engine: the tensor parallelism of transformers itself. Each rank reads only its shards."""

from __future__ import annotations

from genqual.engines.hf.timed_import import Phases

from typing import Any

from genqual.cases import Json
from genqual.engines.base import LoadRequest
from genqual.engines.hf.base import HfEngine
from genqual.engines.hf.from_pretrained import check_heads, read, tensor_parallel_plan
from genqual.engines.hf.process_group import join, plan_auto
from genqual.errors import Unsupported


class TransformersTP(HfEngine):
    """Option `attn_implementation`. Sharding happens in from_pretrained, by the model's own plan."""

    name = "transformers-tp"

    def make(self, request: LoadRequest, phases: Phases) -> Any:
        if not tensor_parallel_plan(request):
            raise Unsupported(f"transformers has no tensor parallel plan for {request.model.architecture}")
        # The plan cuts columns, also inside a head; the model then cannot find its heads again.
        check_heads(request, "evenly")
        join(request)
        phases.end("join")
        model = read(request, **plan_auto(request.world_size))
        phases.end("shard")
        return model

    def share(self, request: LoadRequest) -> float:
        return 1.0 / request.world_size

    def details(self) -> dict[str, Json]:
        return {"tp_plan": {str(name): str(style) for name, style in (self.model._tp_plan or {}).items()}}
