"""The faults of the table level x fault x found, and the checks that each is put into. Pure."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from genqual.cases import Json
from genqual.faults import fault as fault_called
from genqual.health.checks.answers import KnownAnswers
from genqual.health.checks.base import Check, Node
from genqual.health.checks.generation import Generation
from genqual.health.checks.quorum import Quorum
from genqual.health.checks.rank_steps import RankSteps
from genqual.health.checks.repeats import Repeats
from genqual.health.checks.siblings import Stragglers
from genqual.health.finding import Finding

Cores = tuple[int, ...]
FLIPS: Final = "genqual.faults.injectors.flips"
RANKS: Final = "genqual.faults.injectors.ranks"
CORE: Final = "tests.health.quorum_faults:defective"


@dataclass(frozen=True, slots=True)
class LevelFault:
    """`what` is wrong with a node; `checks` makes, for its cores, the checks with the fault in them."""

    name: str
    what: str
    checks: Callable[[Cores], list[Check]]


class BrokenGeneration(Generation):
    """The suite's own tests with a fault in every rank."""

    def __init__(self, entry: str, params: Mapping[str, Json]) -> None:
        super().__init__(("-p", "tests.benchmarks.node_levels.broken_ranks"))
        self._fault = json.dumps([entry, dict(params)])

    def run(self, node: Node, seconds: float) -> Iterator[Finding]:
        """As the check itself, in an environment that names the fault."""
        with _environment("GENQUAL_TEST_FAULT", self._fault):
            yield from super().run(node, seconds)


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]


def _product(number: int) -> Callable[[Cores], list[Check]]:
    return lambda cores: [KnownAnswers(("--inject", str(number)))]


def _repeats(entry: str, **params: Json) -> Callable[[Cores], list[Check]]:
    return lambda cores: [Repeats(fault=(entry, params))]


def _software(name: str) -> Callable[[Cores], list[Check]]:
    known = fault_called(name)
    return lambda cores: [BrokenGeneration(known.entry, known.params)]


def _weight_from_the_start(cores: Cores) -> list[Check]:
    return [BrokenGeneration(f"{FLIPS}:weight", {"bit": 30, "element": 77})]


def _slow_core(share: float) -> Callable[[Cores], list[Check]]:
    return lambda cores: [Stragglers({cores[-1]: share})]


def _slow_rank(share: float) -> Callable[[Cores], list[Check]]:
    return lambda cores: [RankSteps((f"{RANKS}:rank_slow", {"on_rank": 1, "share": share}))]


def _core(every: int) -> Callable[[Cores], list[Check]]:
    return lambda cores: [Quorum((CORE, {"cores": [cores[-1]], "every": every}))]


FAULTS: Final = (
    LevelFault("product-1e3", "a core computes product number 1,000 of each dtype wrong, once", _product(1_000)),
    LevelFault("product-1e4", "product number 10,000, once", _product(10_000)),
    LevelFault("product-1e5", "product number 100,000, once", _product(100_000)),
    LevelFault("mask", "software: a mask that is ignored", _software("mask_ignored")),
    LevelFault("stale-cache", "software: a stale cache of keys and values", _software("stale_kv")),
    LevelFault("weight-start", "an exponent bit of one weight wrong before the first run", _weight_from_the_start),
    LevelFault("weight", "the lowest bit of one weight turns over in pass 100", _repeats(
        f"{FLIPS}:weight", bit=0, after=100, element=77)),
    LevelFault("cache", "the lowest bit of one stored key, once in 1,000 passes", _repeats(
        f"{FLIPS}:cache", bit=0, after=500, every=1_000, element=77, what="keys")),
    LevelFault("activation-1e3", "a middle bit of one activation, in some pass of the first 1,000, once", _repeats(
        f"{FLIPS}:activation", bit=15, after=999, element=77)),
    LevelFault("activation-1e4", "the same, pass 10,000", _repeats(
        f"{FLIPS}:activation", bit=15, after=9_999, element=77)),
    LevelFault("activation-3e4", "the same, pass 30,000", _repeats(
        f"{FLIPS}:activation", bit=15, after=29_999, element=77)),
    LevelFault("rank-exit", "a rank that ends in a generation", _repeats(
        f"{RANKS}:rank_exit", on_rank=0, step=20)),
    LevelFault("core-wrong", "a core whose passes are all wrong by one lowest bit", _core(1)),
    LevelFault("core-wrong-rarely", "the same, one pass of 20 there", _core(20)),
    LevelFault("core-10", "a core that is 10 % slower", _slow_core(0.10)),
    LevelFault("core-5", "a core that is 5 % slower", _slow_core(0.05)),
    LevelFault("rank-5", "a rank that computes 5 % longer", _slow_rank(0.05)),
)  # fmt: skip
