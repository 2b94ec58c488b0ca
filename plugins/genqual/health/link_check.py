"""Check the links between hosts: one rank on each, all pairs in turns. Starts ranks; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from genqual.cases import Case
from genqual.devices.base import Placement
from genqual.devices.registry import processor
from genqual.errors import BadInput
from genqual.health.links import LEAST_HOSTS, Links, Pair, compare, pairs
from genqual.models.spec import ModelSpec
from genqual.ranks.client import Generator
from genqual.ranks.group_spec import GroupPlan

ROUNDS: Final = 160
MESSAGE_S: Final = 0.008
"""What a message should take at least, so that the path's rate counts and not its latency; longer ones are more often
kept waiting by what else the host does."""

_ENTRY: Final = "genqual.health.links_in_rank"
_BYTES, _LEAST, _MOST = 8, 1 << 15, 1 << 24  # of a value; values of a message
_TRIAL: Final = 8


@dataclass(frozen=True, slots=True)
class LinkReport:
    """What was sent and how long it took: `seconds` (rounds, 2) by pair, of `count` int64 values each way."""

    names: dict[int, str]
    count: int
    seconds: dict[Pair, NDArray[np.float64]]
    wrong: tuple[str, ...]  # the first of each rank
    wrong_messages: int

    @property
    def links(self) -> Links | None:
        """None where there are too few hosts to compare."""
        return compare(self.seconds, self.names) if len(self.names) >= LEAST_HOSTS else None

    def gbit_s(self, pair: Pair) -> float:
        """Of the median message, Gbit/s."""
        return 8 * _BYTES * self.count / float(np.median(self.seconds[pair])) / 1e9


def link_plan(hosts: tuple[str, ...], logs: Path, launcher: str, arguments: tuple[str, ...] = ()) -> GroupPlan:
    """One rank on each of `hosts`. Raises BadInput on fewer than two."""
    if len(hosts) < 2:
        raise BadInput(f"--hosts {','.join(hosts)}: a link needs two hosts; name at least two")
    device = processor()
    return GroupPlan(
        case=Case(device.name, "links", "none", "fp32", len(hosts)),
        implementation=f"{_ENTRY}:LinkRanks",
        model=ModelSpec("none", "embedded", "none", "none"),
        placement=Placement(env=({"OMP_NUM_THREADS": "1"},)),
        torch_device="cpu",
        backend=device.backend,
        logs=logs,
        launcher=launcher,
        launcher_arguments=arguments,
        hosts=hosts,
    )


def check_links(generator: Generator, rounds: int = ROUNDS, seed: int = 1) -> LinkReport:
    """Send and compare. Raises GroupLost where a rank or its host is lost, EngineFailed where all ranks fail alike."""
    names = dict(enumerate(generator.plan.hosts))
    trial = _sent(generator, names, _TRIAL, _LEAST, seed)
    usual = float(np.median([one.min(axis=0) for one in trial.seconds.values()]))
    count = int(np.clip(_LEAST * MESSAGE_S / usual, _LEAST, _MOST))
    found = _sent(generator, names, rounds, count, seed + 1)
    wrong = (*trial.wrong, *found.wrong)
    return LinkReport(names, count, found.seconds, wrong, trial.wrong_messages + found.wrong_messages)


def _sent(generator: Generator, names: dict[int, str], rounds: int, count: int, seed: int) -> LinkReport:
    replies = generator.invoke(f"{_ENTRY}:exchange", {"seed": seed, "rounds": rounds, "count": count})
    # A direction is timed where it arrives, so a pair's two ranks have a half each.
    table = np.sum([reply.arrays["seconds"] for reply in replies], axis=0)
    wrong: list[Any] = [said for reply in replies for said in cast("list[str]", reply.value["wrong"])]
    told = sum(int(reply.value["wrong_messages"]) for reply in replies)
    return LinkReport(
        names, count, {pair: table[:, at] for at, pair in enumerate(pairs(len(names)))}, tuple(wrong), told
    )
