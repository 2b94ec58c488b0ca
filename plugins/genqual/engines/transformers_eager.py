"""The `transformers` engine: an eager PyTorch model in one rank. Sharding and compiling live elsewhere."""

from __future__ import annotations

from typing import Any

from genqual.engines.base import LoadRequest
from genqual.engines.clocked import Phases
from genqual.engines.hf import HfEngine
from genqual.engines.reading import read


class TransformersEager(HfEngine):
    """Option `attn_implementation`: "eager" or "sdpa"; absent, transformers chooses."""

    name = "transformers"

    def make(self, request: LoadRequest, phases: Phases) -> Any:
        model = read(request)
        phases.end("read")
        model.to(self._torch_device)
        phases.end("shard")
        return model
