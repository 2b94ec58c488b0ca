"""Are the answers of the timed path right? The latency of wrong ones is worth nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from genqual.cases import Case
from genqual.conformance.judgement import Judgement
from genqual.conformance.judges import logits
from genqual.conformance.judges.free_run import ByOracle
from genqual.conformance.oracle.registry import Oracle
from genqual.conformance.references.make import Reference
from genqual.engines.base import TokenBatch
from genqual.ranks.client import Generator


@dataclass
class TimedAccuracy:
    """What is known of each case. A test that judged it says `right` or `wrong`; else the timed path is scored."""

    generator: Callable[[Case], Generator]
    reference: Callable[[str], Reference | str]
    oracle: Callable[[str], Oracle]
    _known: dict[Case, str] = field(default_factory=dict)
    _wrong: set[Case] = field(default_factory=set)

    def wrong(self, case: Case) -> None:
        """A judgement of this run failed `case`: what is timed of it is of wrong answers."""
        self._wrong.add(case)

    def is_wrong(self, case: Case) -> bool:
        """Whether a judgement of this run failed `case`."""
        return case in self._wrong

    def right(self, case: Case) -> None:
        """A test of this run judged the timed path of `case`, and it passed."""
        self._known.setdefault(case, "")

    def why_not_right(self, case: Case) -> str:
        """Why the answers of the timed path are not known to be right, or nothing. Scores them when no test has."""
        if case in self._wrong:
            return "this case failed a judgement in the same run, and the latency of wrong answers is worth nothing"
        if case not in self._known:
            found = self.reference(case.model)
            if not isinstance(found, Reference):
                self._known[case] = f"its answers are not known to be right: {found}"
            else:
                judgement = self._judged(case, found)
                if judgement.status == "fail":
                    self.wrong(case)
                self._known[case] = "" if judgement.passed else f"the timed path: {judgement.explanation}"
        return self._known[case]

    def _judged(self, case: Case, known: Reference) -> Judgement:
        """The timed path against the oracle, by the most that its engine shows: logits, else a free run's tokens."""
        generator, prompts = self.generator(case), TokenBatch.of(known.prompts)
        if generator.plan.tier == "tokens":
            tokens = generator.generate(prompts, known.steps).tokens
            by = ByOracle(lambda: self.oracle(case.model))
            return logits.judge_free_run(tokens, known, dtype=case.dtype, rescore=by)
        return logits.judge_scores(generator.score(prompts, known.forced), known, dtype=case.dtype)
