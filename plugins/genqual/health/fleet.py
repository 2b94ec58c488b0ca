"""Nodes of a class by vote: whose fingerprint is not that of most. Reads documents of `genqual node`; runs nothing."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

from genqual.health.finding import NodeVerdict
from genqual.health.vote import vote

FLEET_VERSION: Final = "1.0"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Ballot(_Frozen):
    """Nodes that should have one fingerprint: same class, same check, same work by the same software.

    `agreed` is None without a majority; then `odd` is everybody. One node alone has nobody to vote with.
    """

    hardware_class: str
    check: str
    of: str
    nodes: tuple[str, ...]
    agreed: str | None
    odd: tuple[str, ...]

    @property
    def alone(self) -> bool:
        """Whether there is nothing to compare."""
        return len(self.nodes) < 2


class FleetVerdict(_Frozen):
    """What the documents say together. `silent`: nodes of which nothing was compared with another node's."""

    schema_version: Literal["1.0"] = FLEET_VERSION
    verdict: Literal["agree", "differ", "unknown"]
    ballots: tuple[Ballot, ...]
    silent: tuple[str, ...]
    older: tuple[str, ...]  # nodes of which a later document was given, too

    @property
    def exit_code(self) -> int:
        """0 where every node agrees with others; 1 where one differs, or has nobody to be compared with."""
        return 0 if self.verdict == "agree" else 1


def of(documents: Iterable[NodeVerdict]) -> FleetVerdict:
    """The verdict of these documents; the latest of each node counts. A node votes once on each thing."""
    latest: dict[str, NodeVerdict] = {}
    older: list[str] = []
    for one in sorted(documents, key=_began):
        if one.node in latest:
            older.append(one.node)
        latest[one.node] = one
    prints: dict[tuple[str, str, str], dict[str, str]] = {}
    for name, one in sorted(latest.items()):
        for finding in one.findings:
            if (mark := finding.fingerprint) is not None:
                prints.setdefault((one.hardware_class, finding.check, mark.of), {})[name] = mark.sha256
    ballots = [_ballot(*key, said) for key, said in sorted(prints.items())]
    compared = {name for one in ballots if not one.alone for name in one.nodes}
    silent = tuple(sorted(set(latest) - compared))
    differ = any(one.odd for one in ballots)
    return FleetVerdict(
        verdict="differ" if differ else "unknown" if silent or not latest else "agree",
        ballots=tuple(ballots),
        silent=silent,
        older=tuple(sorted(older)),
    )


def _began(one: NodeVerdict) -> datetime:
    return one.began


def _ballot(hardware_class: str, check: str, what: str, said: dict[str, str]) -> Ballot:
    found = vote({name: [one] for name, one in said.items()})
    return Ballot(
        hardware_class=hardware_class, check=check, of=what, nodes=tuple(said), agreed=found.agreed, odd=found.odd
    )  # fmt: skip
