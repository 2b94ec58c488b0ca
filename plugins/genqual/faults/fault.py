"""What a fault is, and which engines it fits. No torch: the functions that entries name run in the ranks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from genqual.cases import Json
from genqual.engines import specs
from genqual.engines.base import ABILITIES, EngineSpec
from genqual.engines.registry import engine as registered

Kind = Literal["logits", "weights", "choice", "rank", "tokens"]

IN_PLACE: Final = frozenset({"transformers", "transformers-compiled", "transformers-tp", "deepspeed-inference"})
"""Engines whose weights lie where the model has them: one may be altered there."""

SHIPPED: Final = frozenset(one.name for one in vars(specs).values() if isinstance(one, EngineSpec))
"""Engines of genqual's own: the catalogue names those that each fault is tried on."""

HF_ENGINES: Final = IN_PLACE | {"accelerate", "deepspeed-zero"}
SHARDED: Final = frozenset({"transformers-tp", "deepspeed-inference"})
HERE: Final = "genqual.faults.injectors"
LLAMA: Final = frozenset({"llama"})
BLOOM: Final = frozenset({"bloom"})


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to be wrong: `kind` "logits" spoils what is computed, "weights" what is stored, "choice" what is written.

    "rank" spoils the process that computes, "tokens" a server's requests. An `equivalent` one changes numbers that
    nothing depends on, and must not alarm. `survives` says why no output of an engine could show it, where that is so,
    and `survives_on` the same of single architectures.
    """

    name: str
    entry: str  # "package.module:function", imported in the ranks only
    summary: str
    kind: Kind = "logits"
    group: str = "arithmetic"
    architectures: frozenset[str] = frozenset({"bloom", "llama"})
    engines: frozenset[str] = HF_ENGINES  # of genqual's own; any other is asked for `wants`
    wants: frozenset[str] = frozenset({"modules"})  # of `EngineSpec.fault_places`
    min_ranks: int = 1
    params: dict[str, Json] = field(default_factory=dict)
    needs: str = ""  # a word that the engine's options or the precision must have: "placement=", "int8"
    dtypes: frozenset[str] = frozenset()  # precisions that it can be wrong in; empty: any
    equivalent: bool = False
    sample: bool = False  # in the fixed sample that every change is proved by
    survives: str = ""
    survives_on: dict[str, str] = field(default_factory=dict)
    ends: bool = False  # it makes the engine raise, or ends its group: that finds it, where no judgement can

    @property
    def ends_group(self) -> bool:
        """Whether an exception is what it is meant to cause; of any other fault an exception finds nothing."""
        return self.ends or self.kind == "rank"

    def fits(self, *, engine: str, architecture: str, ranks: int, dtype: str = "fp32") -> bool:
        """Whether it can be injected there; `engine` with its options."""
        if self.needs not in f"{engine} {dtype}" or (self.dtypes and dtype not in self.dtypes):
            return False
        base = engine.partition(":")[0]
        if self.architectures and architecture not in self.architectures:
            return False
        if base not in SHIPPED:
            wants = self.wants | ({"weights"} if self.kind == "weights" else set())
            return ranks >= self.min_ranks and wants <= registered(engine).fault_places
        if self.kind == "weights" and base not in IN_PLACE:
            return False
        if base not in self.engines or ranks < self.min_ranks:
            return False
        known = registered(engine)  # an option may have taken away what alone would show the fault, or carry it
        return all(known.lacking(one) is None for one in self.wants & ABILITIES.keys())
