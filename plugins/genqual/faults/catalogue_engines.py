"""Faults that one engine alone can have. Pure: names, entries and parameters only."""

from __future__ import annotations

from typing import Final

from genqual.faults.fault import HERE, SHARDED, Fault

FAULTS: Final = (
    Fault(
        "shard_swapped",
        f"{HERE}.engines:shard_swapped",
        "two ranks have each other's shard of one matrix",
        kind="weights",
        group="ranks",
        engines=SHARDED,
        min_ranks=2,
        wants=frozenset({"modules", "shards"}),
    ),
    Fault(
        "not_fetched_back",
        f"{HERE}.engines:not_fetched_back",
        "an offloaded matrix is not fetched: the buffer holds the layer before",
        group="engines",
        engines=frozenset({"accelerate"}),
        needs="placement=",
        wants=frozenset({"modules", "offload"}),
    ),
    Fault(
        "lost_scale",
        f"{HERE}.engines:lost_scale",
        "the scale of one row of a quantised matrix is lost",
        group="engines",
        engines=frozenset({"transformers", "accelerate"}),
        needs="int8",
    ),
    Fault(
        "shared_stream",
        f"{HERE}.engines:shared_stream",
        "in one layer a stream's cache is filled with its neighbour's tokens",
        group="engines",
        engines=frozenset({"deepspeed-zero"}),
        min_ranks=2,
        wants=frozenset({"modules", "cache", "streams"}),
    ),
    Fault(
        "stale_input",
        f"{HERE}.engines:stale_input",
        "a recorded graph's input is left as it was: it reads the token before",
        group="engines",
        engines=frozenset({"transformers-compiled"}),
        wants=frozenset({"modules", "loop", "graph"}),
    ),
    Fault(
        "late_position",
        f"{HERE}.peers:late_position",
        "a decode step is fed the position after its own",
        kind="tokens",
        group="engines",
        architectures=frozenset({"llama"}),
        engines=frozenset({"openvino"}),
        wants=frozenset({"openvino"}),
    ),
    Fault(
        "rows_swapped",
        f"{HERE}.peers:rows_swapped",
        "two requests of a batch get each other's answer",
        kind="tokens",
        group="engines",
        engines=frozenset({"server"}),
        wants=frozenset({"requests"}),
    ),
    Fault(
        "prompt_cut",
        f"{HERE}.peers:prompt_cut",
        "each prompt loses its first token on the way",
        kind="tokens",
        group="engines",
        engines=frozenset({"server"}),
        wants=frozenset({"requests"}),
    ),
)
