"""The `transformers` engine: transformers' own generate in one rank, eager or by graphs. Sharding lives elsewhere."""

from __future__ import annotations

from genqual.engines.hf.timed_import import Phases

from typing import Any, ClassVar, Final

from genqual.cases import Json
from genqual.engines.base import Loaded, LoadRequest, TokenBatch
from genqual.engines.hf import expert_rounding, fp8, input_rounding
from genqual.engines.hf.base import WARM_TOKENS, HfEngine
from genqual.engines.hf.from_pretrained import read
from genqual.engines.hf.graphs import Graphs, NoGraphs, graphs_of
from genqual.engines.hf.quantise import TORCHAO, quantise

_EMULATED: Final = "weights are widened, and genqual's own torch code rounds what enters the layers that say so"


class TransformersEager(HfEngine):
    """Options: `attn_implementation` ("eager", "sdpa"; absent, transformers chooses); `graphs`, see `engines.graphs`.

    Quantisation schemes of torchao are applied to the model once it is on its device; of a checkpoint that quantises
    activations by its own word, that is emulated in the precision of it.
    """

    name = "transformers"
    default_graphs: ClassVar[str] = "none"

    def make(self, request: LoadRequest, phases: Phases) -> Any:
        self._graphs: Graphs = graphs_of(request, self.default_graphs)
        phases.end("import")
        self._rounded = input_rounding.of_request(request)
        model = read(request)
        self._graphs.check(model)
        phases.end("read")
        model.to(self._torch_device)
        phases.end("shard")
        if self._rounded:
            others = expert_rounding.apply(model, self._rounded, request.dtype)
            model = input_rounding.apply(model, others, request.dtype)
            phases.end("quantise")
        elif request.dtype in TORCHAO:
            model = quantise(model, request.dtype)
            phases.end("quantise")
        elif request.dtype == fp8.SCHEME:
            model = fp8.apply(model, request)
            phases.end("quantise")
        return self._graphs.wrap(model)

    def _warm(self) -> int:
        found = super()._warm()
        for rows in self._graphs.warmed:
            self._decode(TokenBatch.of([[1] * WARM_TOKENS] * rows), 2)
        return found

    def load_again(self) -> Loaded | None:
        """Load the same once more, beside what is loaded, and let go of it; None with graphs, which record anew.

        What a launch repeats to time loading.
        """
        return type(self)().load(self.request) if type(self._graphs) is NoGraphs else None

    def decode_options(self, rows: int, length: int) -> dict[str, Any]:
        return self._graphs.decode_options(self.model, rows, length, self._cache)

    def after_decode(self, steps: int) -> None:
        self._graphs.after_decode(steps)

    def model_changed(self) -> None:
        self._graphs.forget()

    def drop_buffers(self) -> None:
        self._graphs.drop_buffers()

    def details(self) -> dict[str, Json]:
        emulated: dict[str, Json] = {"emulated": _EMULATED} if self._rounded else {}
        return emulated | self._graphs.details()
