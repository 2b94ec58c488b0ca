"""Quorum: the same generation on each core or card; the one whose numbers are not those of most is named."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Final

from genqual.cases import Json
from genqual.conformance.references import file
from genqual.engines.base import TokenBatch
from genqual.errors import GenqualError
from genqual.health.checks.base import Node, unknown
from genqual.health.finding import Finding, Fingerprint, Outcome, Threshold
from genqual.health.group import group_on, on_each_card
from genqual.health.outcomes import bad
from genqual.health.vote import vote
from genqual.paths import data_dir
from genqual.ranks.client import Generator
from genqual.ranks.errors import GroupLost

ENTRY: Final = "genqual.health.cores_in_rank:by_core"
MODEL, ROWS, STEPS = "llama-tiny", 2, 8


class Quorum:
    """llama-tiny in fp32: one thread that goes from core to core, or a rank on each card, all at once.

    The digest that they agree on is the node's own, to compare nodes by.
    """

    name = "quorum"
    summary = "one generation on each core or card, by vote; and a fingerprint to compare nodes by"
    required = False
    seconds = 10.0
    stretches = False
    privileges = "none"

    def __init__(self, fault: tuple[str, dict[str, Json]] | None = None) -> None:
        self._fault = fault  # for tests: put in before the first core

    def run(self, node: Node, seconds: float) -> Iterator[Finding]:
        """One finding on all places where they agree; else one on each that does not, or on all without a majority."""
        end = time.monotonic() + seconds
        if node.cards:
            yield from self._cards(node, end)
            return
        node.say(f"{self.name}: {MODEL} on {len(node.cores)} cores")
        try:
            said, of = self._group(node, node.cores, end)
        except (GenqualError, GroupLost) as error:
            yield unknown(self, node.entity, _told(error))
            return
        yield from self._voted(said, of, "cores", "cores")

    def _group(self, node: Node, cores: tuple[int, ...], end: float) -> tuple[dict[str, list[str]], str]:
        with group_on(node, "transformers", MODEL) as generator:
            return asked(generator, cores, end, self._fault)

    def _cards(self, node: Node, end: float) -> Iterator[Finding]:
        """One rank on each card. Cards of one kind, with the same software, vote with each other."""
        node.say(f"{self.name}: {MODEL} on {len(node.cards)} cards")
        groups: dict[str, dict[str, list[str]]] = {}
        for card, told in zip(node.cards, on_each_card(node, lambda one: self._group(one, (), end)), strict=True):
            if isinstance(told, BaseException):
                yield unknown(self, card.entity, _told(told))
            else:
                groups.setdefault(told[1], {})[card.entity] = told[0][""]
        for of, said in groups.items():
            yield from self._voted(said, of, "cards", "cards" if len(groups) == 1 else ", ".join(said))

    def _voted(self, said: dict[str, list[str]], of: str, kind: str, whole: str) -> Iterator[Finding]:
        """Of the places in `said`, all of one kind; a finding on all of them names `whole`."""
        found = vote(said)
        rounds = min(map(len, said.values()))
        limit = Threshold(value=0.0, unit=f"{kind} that differ", source=f"bits of most {kind}")
        if found.agreed is None:
            told = "; ".join(f"{name} {' '.join(sorted({one[:12] for one in each}))}" for name, each in said.items())
            yield bad(f"{self.name}.split", ", ".join(said), f"no answer has a majority: {told}",
                      signal=float(len(said)), threshold=limit)  # fmt: skip
            return
        for name in found.odd:
            wrong = [one for one in said[name] if one != found.agreed]
            some = f"{len(wrong)} of {len(said[name])} generations gave {wrong[0][:12]}"
            told = f"{some}, most {kind} {found.agreed[:12]}; {of}"
            yield bad(f"{self.name}.differs", name, told, signal=float(len(found.odd)), threshold=limit)
        if not found.odd:
            alone = len(said) == 1
            told = f"{len(said)} {kind}, {rounds} generations each, all {found.agreed[:12]}; {of}"
            yield Finding(
                check=self.name, entity=whole, outcome=Outcome.UNAVAILABLE if alone else Outcome.OK,
                signal=None if alone else 0.0, threshold=limit,
                evidence=f"nobody to vote with: {told}" if alone else told,
                fingerprint=Fingerprint(of=of, sha256=found.agreed),
            )  # fmt: skip


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error)[:400]}"


def asked(
    generator: Generator, cores: tuple[int, ...], end: float, fault: tuple[str, dict[str, Json]] | None = None
) -> tuple[dict[str, list[str]], str]:
    """What each core said in each round, and by what software: one round at least, and more until `end`.

    Without `cores` it is the rank's card that says it, and its name is empty.
    """
    reference = file.read(data_dir("baselines") / "references" / MODEL).select(rows=range(ROWS), steps=STEPS)
    batch = TokenBatch.of(reference.prompts)
    arrays: dict[str, Any] = {"ids": batch.ids, "mask": batch.mask}
    how: dict[str, Json] = {"steps": STEPS, "cores": list(cores)}
    names = [f"core {core}" for core in cores] or [""]
    said: dict[str, list[str]] = {name: [] for name in names}
    of, took = "", 0.0

    def ask() -> None:
        nonlocal of, took
        while not of or time.monotonic() + took < end:
            begun = time.monotonic()
            told = generator.invoke(ENTRY, how, arrays)[0].value
            for name, one in zip(names, told["prints"], strict=True):
                said[name].append(str(one))
            of, took = str(told["of"]), time.monotonic() - begun

    if fault is None:
        ask()
    else:
        with generator.fault(fault[0], **fault[1]):
            ask()
    return said, f"{MODEL} {reference.weights_sha256[:12]}, fp32, {ROWS} rows, {STEPS} steps, one thread, {of}"
