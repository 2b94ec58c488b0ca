"""How the decode step of a transformers engine is run: as it is, or recorded once and replayed. No model is read."""

from __future__ import annotations

import importlib
from typing import Any, Final, Protocol

from genqual.cases import Json
from genqual.engines.base import LoadRequest
from genqual.errors import BadInput, Unsupported

GRAPHS: Final = ("none", "static", "compile", "cuda", "hpu")


class Graphs(Protocol):
    """What an engine asks before, around and after a decode; `none` answers with nothing."""

    warmed: tuple[int, ...]
    """Rows of the decodes that loading ends with, in order."""

    def check(self, model: Any) -> None:
        """Raise Unsupported where upstream cannot record this model."""

    def wrap(self, model: Any) -> Any:
        """The model to call from now on."""

    def decode_options(self, model: Any, rows: int, length: int, like: Any) -> dict[str, Any]:
        """Arguments of generate for `rows` rows that will hold `length` tokens; `like` is a small cache."""

    def after_decode(self, steps: int) -> None: ...

    def forget(self) -> None:
        """The model was altered in place: drop what was recorded."""

    def drop_buffers(self) -> None: ...

    def details(self) -> dict[str, Json]: ...


class NoGraphs:
    """Eager: every operator is dispatched anew."""

    warmed: tuple[int, ...] = ()

    def check(self, model: Any) -> None:
        """Any model may be run."""

    def wrap(self, model: Any) -> Any:
        return model

    def decode_options(self, model: Any, rows: int, length: int, like: Any) -> dict[str, Any]:
        return {}

    def after_decode(self, steps: int) -> None:
        """Nothing was promised."""

    def forget(self) -> None:
        """Nothing is kept."""

    def drop_buffers(self) -> None:
        """There are none."""

    def details(self) -> dict[str, Json]:
        return {"graphs": "none"}


class HpuGraphs(NoGraphs):
    """Habana's: the forward is recorded at the first call of each shape and replayed by the next."""

    def wrap(self, model: Any) -> Any:
        return importlib.import_module("habana_frameworks.torch.hpu").graphs.wrap_in_hpu_graph(model)

    def details(self) -> dict[str, Json]:
        return {"graphs": "hpu"}


def graphs_of(request: LoadRequest, default: str) -> Graphs:
    """What option `graphs` (else `default`) asks for. Raises BadInput on a word, Unsupported on a device."""
    kind = request.options.get("graphs", default)
    if kind not in GRAPHS:
        raise BadInput(f"graphs {kind!r}: must be one of {', '.join(GRAPHS)}")
    if kind in ("cuda", "hpu") and request.device != kind:
        raise Unsupported(f"graphs={kind} records {kind.upper()} graphs, and this rank computes on {request.device}")
    if kind == "none":
        return NoGraphs()
    if kind == "hpu":
        return HpuGraphs()
    # Only now: importing Inductor takes as long as importing transformers.
    from genqual.engines.hf.compiled_step import CompiledStep, StaticStep

    if kind == "static":
        return StaticStep(request)
    return CompiledStep(request, str(kind))
