"""An engine of another package: transformers' own generate, as its authors would wrap it. Torch in the ranks only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from genqual.engines.base import EngineSpec
from genqual.engines.specs import ALL_DTYPES, HF_ABILITIES

SPEC = EngineSpec(
    name="toy",
    implementation="toy_engine:ToyEngine",
    summary="an engine that another package registers",
    devices=frozenset({"cpu"}),
    dtypes=ALL_DTYPES,
    max_ranks=1,
    modules=("torch", "transformers"),
    abilities=HF_ABILITIES,
)

if TYPE_CHECKING:
    ToyEngine: Any


def __getattr__(name: str) -> Any:
    """The class, made when a rank asks for it: the spec is read where no torch may be imported."""
    if name != "ToyEngine":
        raise AttributeError(name)
    from genqual.engines.hf.eager import TransformersEager

    return type("ToyEngine", (TransformersEager,), {"name": "toy"})
