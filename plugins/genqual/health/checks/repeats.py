"""Silent corruption: the same generation for the time given, each step compared with the first run and the oracle."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Final

from genqual.cases import Json
from genqual.conformance.judgement import FP32_LIMIT, Judgement
from genqual.conformance.judges.logits import judge_scores
from genqual.conformance.references import file
from genqual.engines.base import Scores, TokenBatch
from genqual.engines.registry import engine
from genqual.errors import GenqualError
from genqual.health.checks.base import Node
from genqual.health.finding import Finding, Outcome, Threshold
from genqual.health.group import findings_on_each_card, group_on
from genqual.health.known_answer import rate_bounds
from genqual.health.outcomes import bad
from genqual.models.registry import resolve
from genqual.models.weights import sha256
from genqual.paths import data_dir
from genqual.ranks.client import Generator
from genqual.ranks.codec import decode
from genqual.ranks.errors import GroupLost

HERE: Final = "genqual.health.repeats_in_rank"
MODEL: Final = "llama-tiny"
ROWS, STEPS = 2, 8
STORED: Final = frozenset({"weights", "cache"})
"""Kinds of events of what is kept, while every logit and token is as it was."""
_CALL_S: Final = 5.0  # of one call to the ranks, so that the end of the time is met


@dataclass
class Counts:
    """What one rank compared so far: steps, products, and what was wrong."""

    steps: int = 0
    products: int = 0
    events: list[dict[str, Json]] = field(default_factory=list)
    more: int = 0

    def add(self, told: dict[str, Any]) -> None:
        """Take in the answer of one call of `again`."""
        self.steps += int(told["steps"])
        self.products += int(told["products"])
        self.events += told["events"]
        self.more += int(told["more"])


class Repeats:
    """llama-tiny in fp32, as one rank on all cores or one on each card; products with known answers between steps."""

    name = "repeats"
    summary = "the same generation again and again: bits of steps, weights and cache; the first run by the oracle"
    required = True
    seconds = 14.0
    stretches = True
    privileges = "none"

    def __init__(
        self,
        engine_name: str = "transformers",
        ranks: int = 1,
        fault: tuple[str, dict[str, Json]] | None = None,
        params: dict[str, Json] | None = None,
    ) -> None:
        self._engine, self._ranks = engine_name, ranks
        self._fault, self._params = fault, params or {}  # for tests: put in after the first run

    def run(self, node: Node, seconds: float) -> Iterator[Finding]:
        """A finding a rank, and one on the first run; of each card, where there are cards."""
        if len(node.cards) > 1:
            yield from findings_on_each_card(self, node, lambda one: self.run(one, seconds))
            return
        end = time.monotonic() + seconds
        node.say(f"{self.name}: {MODEL} again and again, {seconds:.0f} s")
        try:
            with self._started(node) as generator:
                yield from self._judged(node, generator, end)
        except (GenqualError, GroupLost) as error:
            why = f"{type(error).__name__}: {str(error)[:400]}"
            yield bad(f"{self.name}.lost", node.entity, why, required=True, next_command=self._again(node))

    def _judged(self, node: Node, generator: Generator, end: float) -> Iterator[Finding]:
        reference = file.read(data_dir("baselines") / "references" / MODEL).select(rows=range(ROWS), steps=STEPS)
        batch = TokenBatch.of(reference.prompts)
        arrays = {"ids": batch.ids, "mask": batch.mask, "forced": reference.forced}
        first = generator.invoke(f"{HERE}:begin", {}, arrays)[0]
        scores = decode(Scores, first.value, first.arrays)
        if reference.weights_sha256 != sha256(resolve(MODEL)):
            yield self._unknown(node.entity, f"the reference is not of these weights of {MODEL}")
            return
        yield self._first(node, judge_scores(scores, reference, dtype="fp32"))
        if self._fault is None:
            counts = self._repeat(generator, end)
        else:
            with generator.fault(self._fault[0], **self._fault[1]):
                counts = self._repeat(generator, end)
        for rank, one in enumerate(counts):
            yield self._finding(node, rank, one)

    def _repeat(self, generator: Generator, end: float) -> list[Counts]:
        """Runs until `end`, one at least; every rank makes as many."""
        limit = None if engine(self._engine).repeats_bits else FP32_LIMIT
        params: dict[str, Json] = {"limit": limit, **self._params}
        counts = [Counts() for _ in generator.loaded]
        runs, begun = 1, time.monotonic()
        while True:
            for one, reply in zip(counts, generator.invoke(f"{HERE}:again", {"runs": runs, **params}), strict=True):
                one.add(reply.value)
            now = time.monotonic()
            left, each = end - now, (now - begun) / runs
            runs = int(min(left, _CALL_S) / each)
            if runs < 1:
                return counts
            begun, params = now, {"limit": limit}

    def _finding(self, node: Node, rank: int, counts: Counts) -> Finding:
        entity = f"{node.entity} rank {rank}"
        limit = Threshold(value=0.0, unit="steps and products that differ", source=self._promise)
        compared = f"{counts.steps} steps and {counts.products} products"
        events, total = counts.events, len(counts.events) + counts.more
        if not events:
            high = rate_bounds(0, counts.steps)[1]
            of_products = f", {rate_bounds(0, counts.products)[1]:.2g} of products" if counts.products else ""
            said = f"0 of {compared} differ: below {high:.2g} of steps{of_products} at 95 %"
            return Finding(check=self.name, entity=entity, outcome=Outcome.OK, required=True, signal=0.0,
                           threshold=limit, evidence=said)  # fmt: skip
        kinds = {str(one["kind"]) for one in events}
        kind = "product" if kinds == {"product"} else "stored" if kinds <= STORED else "differs"
        low, high = rate_bounds(min(total, counts.steps + counts.products), counts.steps + counts.products)
        said = f"{total} events in {compared} ({low:.2g} to {high:.2g} of them at 95 %); first: {told(events[0])}"
        return bad(f"{self.name}.{kind}", entity, said, required=True, signal=float(total), threshold=limit,
                   next_command=self._again(node))  # fmt: skip

    @property
    def _promise(self) -> str:
        return "bits of the first run" if engine(self._engine).repeats_bits else f"nrms {FP32_LIMIT:g} of the first run"

    def _first(self, node: Node, judgement: Judgement) -> Finding:
        entity, limit = f"{node.entity}, first run", Threshold(value=FP32_LIMIT, unit="nrms", source="docs/judge.md")
        if judgement.status == "no_reference":
            return self._unknown(entity, judgement.explanation)
        if not judgement.passed:
            return bad(f"{self.name}.oracle", entity, judgement.explanation, required=True, signal=judgement.nrms,
                       threshold=limit, next_command=self._again(node))  # fmt: skip
        return Finding(check=self.name, entity=entity, outcome=Outcome.OK, required=True, signal=judgement.nrms,
                       threshold=limit, evidence=judgement.explanation)  # fmt: skip

    def _unknown(self, entity: str, why: str) -> Finding:
        return Finding(check=self.name, entity=entity, outcome=Outcome.UNKNOWN, required=True, evidence=why)

    def _again(self, node: Node) -> str:
        return f"genqual bisect {MODEL} --engine {self._engine} --device {node.device} --ranks {self._ranks}"

    def _started(self, node: Node) -> AbstractContextManager[Generator]:
        return group_on(node, self._engine, MODEL, ranks=self._ranks)


def told(event: dict[str, Any]) -> str:
    """One event in words: run, step, where, value, and whether it came again."""
    if event["kind"] == "weights":
        return f"up to run {event['run']}: digest of the weights {event['got']} instead of {event['expected']}"
    again = f"again in {event['again']} of {event['repeats']} repeats"
    if event["kind"] == "product":
        where = f"product {event['tile']} after step {event['step']}, number ({event['row']}, {event['column']})"
    elif event["kind"] == "cache":
        where = f"run {event['run']}, end of step {event['step']}, digest of the cache's {event['part']}"
    elif event["kind"] == "generated":
        where = f"run {event['run']}, step {event['step']} of the generation itself, checksum of its logits"
    elif event["kind"] == "token":
        where = f"run {event['run']}, step {event['step']}, row {event['row']}: token"
    else:
        where = f"run {event['run']}, step {event['step']}, row {event['row']}, logit of token {event['token']}"
    return f"{where}: {event['got']} instead of {event['expected']}, {event['wrong']} wrong; {again}"
