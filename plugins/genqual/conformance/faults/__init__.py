"""Faults to inject into an engine: the negative controls of the suite. No torch here; what entries name runs in ranks.

A fault is a function `(engine, rank, **params) -> undo`. It changes the loaded model of that rank through hooks,
instance attributes or its weights, never an installed package, and `undo()` puts back what was there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Literal

from genqual.errors import BadInput
from genqual.spec import Json

Kind = Literal["logits", "rank", "tokens"]

IN_PLACE: Final = frozenset({"transformers", "transformers-compiled", "transformers-tp", "deepspeed-inference"})
"""Engines whose weights lie where the model has them: one may be altered there."""

HF_ENGINES: Final = IN_PLACE | {"accelerate", "deepspeed-zero"}
SHARDED: Final = frozenset({"transformers-tp", "deepspeed-inference"})


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to be wrong.

    `kind` "logits" spoils what is computed, "rank" the process that computes it, "tokens" a server's requests.
    """

    name: str
    entry: str  # "package.module:function", imported in the ranks only
    summary: str
    kind: Kind = "logits"
    architectures: frozenset[str] = frozenset({"bloom", "llama"})
    engines: frozenset[str] = HF_ENGINES
    min_ranks: int = 1
    params: dict[str, Json] = field(default_factory=dict)
    needs: str = ""  # a word that the engine's options or the precision must have: "placement=", "int8"

    def fits(self, *, engine: str, architecture: str, ranks: int, dtype: str = "fp32") -> bool:
        """Whether it can be injected there."""
        if self.needs not in f"{engine} {dtype}":
            return False
        return (
            engine.partition(":")[0] in self.engines and architecture in self.architectures and ranks >= self.min_ranks
        )


def _catalogue(faults: Iterable[Fault]) -> dict[str, Fault]:
    return {fault.name: fault for fault in faults}


_HERE: Final = "genqual.conformance.faults"

CATALOGUE: Final[dict[str, Fault]] = _catalogue(
    (
        Fault("stale_kv", f"{_HERE}.cache:stale_kv", "a layer's cache stores the previous token at each decode step"),
        Fault("zeroed_head", f"{_HERE}.arithmetic:zeroed_head", "one attention head of one layer puts out zeros"),
        Fault(
            "rotary_theta_1pct",
            f"{_HERE}.arithmetic:rotary_theta",
            "the rotary base is 1 % too large",
            architectures=frozenset({"llama"}),
            params={"factor": 1.01},
        ),
        Fault(
            "alibi_slope_1pct",
            f"{_HERE}.arithmetic:alibi_slope",
            "ALiBi's slopes are 1 % too steep",
            architectures=frozenset({"bloom"}),
            params={"factor": 1.01},
        ),
        Fault(
            "half_allreduce",
            f"{_HERE}.parallel:half_allreduce",
            "half of one all-reduce is dropped: those channels keep the rank's own partial sums",
            engines=SHARDED,
            min_ranks=2,
        ),
        Fault("nan_hidden", f"{_HERE}.arithmetic:nan_hidden", "one hidden channel of one batch row is NaN"),
        Fault("nan_logit", f"{_HERE}.arithmetic:nan_logit", "the logit of one token is NaN in one batch row"),
        Fault("decode_only", f"{_HERE}.arithmetic:decode_only", "one layer is 5 % off when it reads a single token"),
        Fault(
            "compiled_only",
            f"{_HERE}.arithmetic:compiled_only",
            "one layer is 5 % off inside the compiled graph and nowhere else",
            engines=frozenset({"transformers-compiled"}),
        ),
        Fault(
            "sign_flip",
            f"{_HERE}.weights:sign_flip",
            "one sign bit of one weight matrix is flipped",
            engines=IN_PLACE,
        ),
        Fault("row_zeroed", f"{_HERE}.weights:row_zeroed", "one row of one weight matrix is zero", engines=IN_PLACE),
        Fault(
            "shard_swapped",
            f"{_HERE}.engines:shard_swapped",
            "two ranks have each other's shard of one matrix",
            engines=SHARDED,
            min_ranks=2,
        ),
        Fault(
            "not_fetched_back",
            f"{_HERE}.engines:not_fetched_back",
            "an offloaded matrix is not fetched: the buffer holds the layer before",
            engines=frozenset({"accelerate"}),
            needs="placement=",
        ),
        Fault(
            "lost_scale",
            f"{_HERE}.engines:lost_scale",
            "the scale of one row of a quantised matrix is lost",
            engines=frozenset({"transformers", "accelerate"}),
            needs="int8",
        ),
        Fault(
            "shared_stream",
            f"{_HERE}.engines:shared_stream",
            "in one layer a stream's cache is filled with its neighbour's tokens",
            engines=frozenset({"deepspeed-zero"}),
            min_ranks=2,
        ),
        Fault(
            "stale_input",
            f"{_HERE}.engines:stale_input",
            "a recorded graph's input is left as it was: it reads the token before",
            engines=frozenset({"transformers-compiled"}),
        ),
        Fault(
            "late_position",
            f"{_HERE}.peers:late_position",
            "a decode step is fed the position after its own",
            kind="tokens",
            architectures=frozenset({"llama"}),
            engines=frozenset({"openvino"}),
        ),
        Fault("rank_exit", f"{_HERE}.ranks:rank_exit", "one rank exits, or is killed, at a decode step", kind="rank"),
        Fault("rank_sleep", f"{_HERE}.ranks:rank_sleep", "one rank stops answering at a decode step", kind="rank"),
        Fault(
            "rows_swapped",
            f"{_HERE}.peers:rows_swapped",
            "two requests of a batch get each other's answer",
            kind="tokens",
            engines=frozenset({"server"}),
        ),
        Fault(
            "prompt_cut",
            f"{_HERE}.peers:prompt_cut",
            "each prompt loses its first token on the way",
            kind="tokens",
            engines=frozenset({"server"}),
        ),
        Fault("rank_raise", f"{_HERE}.ranks:rank_raise", "one rank raises at a decode step", kind="rank"),
    )
)


def fault(name: str) -> Fault:
    """The fault called `name`. Raises BadInput that lists the names."""
    if name not in CATALOGUE:
        raise BadInput(f"fault {name!r}: the catalogue has {', '.join(CATALOGUE)}")
    return CATALOGUE[name]
