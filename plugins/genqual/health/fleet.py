"""Nodes of a class by vote: whose fingerprint is not that of most. Reads documents of `genqual node`; runs nothing."""

from __future__ import annotations

from collections.abc import Iterable
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
    """What the documents say together.

    `silent`: nodes of which nothing was compared with another node's. `unfit`: nodes that are by their own document,
    with its first reason; they do not vote. `older`: nodes of which a later fingerprint was given, too.
    """

    schema_version: Literal["1.0"] = FLEET_VERSION
    verdict: Literal["agree", "differ", "unknown"]
    ballots: tuple[Ballot, ...]
    silent: tuple[str, ...]
    unfit: dict[str, str]
    older: tuple[str, ...]
    nodes: int
    expected: int | None

    @property
    def exit_code(self) -> int:
        """0 where every node is fit and agrees with others, and as many are there as were expected; else 1."""
        return 0 if self.verdict == "agree" else 1


def of(documents: Iterable[NodeVerdict], expected: int | None = None) -> FleetVerdict:
    """The verdict of these documents. A node votes once on each thing, by the latest document that has it."""
    prints: dict[tuple[str, str, str], dict[str, str]] = {}
    latest: dict[tuple[str, str], NodeVerdict] = {}
    older: set[str] = set()
    for one in _distinct(documents):
        latest[one.node, one.hardware_class] = one
        for finding in one.findings:
            if (mark := finding.fingerprint) is not None:
                said = prints.setdefault((one.hardware_class, finding.check, mark.of), {})
                older |= {one.node} & said.keys()
                said[one.node] = mark.sha256
    unfit = {where: one.reasons[0] for where, one in latest.items() if one.verdict == "unfit"}
    ballots = [
        _ballot(*key, {node: sha for node, sha in said.items() if (node, key[0]) not in unfit})
        for key, said in sorted(prints.items())
        if any((node, key[0]) not in unfit for node in said)
    ]
    compared = {(node, one.hardware_class) for one in ballots if not one.alone for node in one.nodes}
    silent = tuple(sorted({node for node, _ in latest.keys() - compared - unfit.keys()}))
    names = {node for node, _ in latest}
    open_ = bool(silent or unfit or not names or len(names) < (expected or 0))
    return FleetVerdict(
        verdict="differ" if any(one.odd for one in ballots) else "unknown" if open_ else "agree",
        ballots=tuple(ballots),
        silent=silent,
        unfit=dict(sorted((node, reason) for (node, _), reason in unfit.items())),
        older=tuple(sorted(older)),
        nodes=len(names),
        expected=expected,
    )


def _distinct(documents: Iterable[NodeVerdict]) -> list[NodeVerdict]:
    """Each document once, however often it was given, the earliest first."""
    by_content = {one.model_dump_json(): one for one in documents}
    return [by_content[text] for text in sorted(by_content, key=lambda text: (by_content[text].began, text))]


def _ballot(hardware_class: str, check: str, what: str, said: dict[str, str]) -> Ballot:
    found = vote({name: [one] for name, one in sorted(said.items())})
    return Ballot(
        hardware_class=hardware_class, check=check, of=what, nodes=tuple(sorted(said)), agreed=found.agreed,
        odd=found.odd,
    )  # fmt: skip
