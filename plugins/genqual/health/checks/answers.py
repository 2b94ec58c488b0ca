"""Products with known answers on every core or card at once: it computes wrong, or it does not."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, Final

from genqual.health.checks.base import Node
from genqual.health.checks.spots import spots
from genqual.health.children import ends_with_us
from genqual.health.finding import Finding, Outcome, Threshold
from genqual.health.known_answer import rate_bounds
from genqual.health.outcomes import bad

_START_S: Final = 60.0  # what importing torch may take on a busy host, beyond the time of the check


class KnownAnswers:
    """One process a core or card, all at once, in fp32 and then in bf16."""

    name = "known_answers"
    summary = "integer products of the sizes of generation, exact to the bit, on all cores or cards at once"
    required = True
    seconds = 12.0
    stretches = True
    privileges = "none"

    def __init__(self, more: tuple[str, ...] = ()) -> None:
        self._more = more  # words for the process, for tests

    def run(self, node: Node, seconds: float) -> Iterable[Finding]:
        """A finding a core or card, and dtype."""
        for dtype in ("fp32", "bf16"):
            many = f"{len(node.cards)} cards" if node.cards else f"{len(node.cores)} cores"
            node.say(f"{self.name}: {dtype} on {many}, {seconds / 2:.0f} s")
            yield from self._dtype(node, dtype, seconds / 2)

    def _dtype(self, node: Node, dtype: str, seconds: float) -> Iterator[Finding]:
        # The import is part of the time that the level has.
        command = [sys.executable, "-m", "genqual.health.stress", "--dtype", dtype]
        command += ["--seconds", f"{max(1.0, seconds - 4.0):.1f}", *self._more]
        started = {
            spot.entity: subprocess.Popen(
                [*command, *spot.words],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=spot.environment,
                preexec_fn=ends_with_us(),
            )
            for spot in spots(node)
        }
        end = time.monotonic() + seconds + _START_S  # of all: they run at the same time
        try:
            for entity, process in started.items():
                try:
                    out, error = process.communicate(timeout=max(1.0, end - time.monotonic()))
                except subprocess.TimeoutExpired:
                    process.kill()
                    out, error = process.communicate()
                    error = f"no answer within {seconds + _START_S:.0f} s; {error[-200:]}"
                yield self._finding(entity, dtype, process.returncode, out, error)
        finally:
            for process in started.values():
                process.kill()  # does nothing to one that has ended

    def _finding(self, entity: str, dtype: str, status: int, out: str, error: str) -> Finding:
        if status:
            last = (error.strip().splitlines() or ["it said nothing"])[-1]
            return bad(f"{self.name}.died", f"{entity}, {dtype}", f"exit status {status}: {last}")
        try:  # the last line: what a driver prints on stdout comes before it
            answer: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
            events, products = answer["events"], int(answer["products"])
        except (IndexError, KeyError, TypeError, ValueError) as why:
            return bad(f"{self.name}.died", f"{entity}, {dtype}", f"no answer: {type(why).__name__}: {out[-200:]!r}")
        if not products:
            return Finding(
                check=self.name,
                entity=f"{entity}, {dtype}",
                outcome=Outcome.UNKNOWN,
                required=True,
                evidence="no product was computed in the time given",
            )
        limit = Threshold(value=0.0, unit="wrong products", source="integers: exact in any order of adding")
        high = rate_bounds(len(events), products)[1]
        if not events:
            return Finding(
                check=self.name,
                entity=f"{entity}, {dtype}",
                outcome=Outcome.OK,
                required=True,
                signal=0.0,
                threshold=limit,
                evidence=f"0 of {products} products wrong: below {high:.2g} of them at 95 %",
            )
        one = events[0]
        injected = " (injected by its own test)" if answer["injected"] else ""
        return bad(
            f"{self.name}.wrong",
            f"{entity}, {dtype}",
            f"{len(events)} of {products} products wrong{injected}; first number {one['count']}, {one['tile']}, at "
            f"({one['row']}, {one['column']}) {one['got']} instead of {one['expected']}, {one['wrong']} numbers; again "
            f"in {one['again']} of {one['repeats']} repeats",
            required=True,
            signal=float(len(events)),
            threshold=limit,
        )
