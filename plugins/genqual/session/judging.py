"""The gate as a session's options set it up: which build answers, what may be paired, where launches are kept."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from genqual.cases import Case
from genqual.devices.registry import devices
from genqual.gate.case_launches import Taken
from genqual.gate.controller import Judging, Question
from genqual.gate.history import History
from genqual.gate.launch_plan import LaunchJob
from genqual.gate.pairing import Pairing
from genqual.gate.past_launches import past_of
from genqual.ranks.client import Generator
from genqual.session.failure_message import again, remake
from genqual.session.options import Options


def judging_of(
    options: Options,
    question: Question,
    progress: Callable[[str], None],
    accuracy: Callable[[Case], str],
    other: Callable[[Case, str], Generator],
    keep: Callable[[Generator, LaunchJob, Taken], None],
) -> Judging:
    """The gate of a run. `other` makes the ranks of a case in the build that a text names; `keep` is given launches."""
    build = options.baseline_from
    return Judging(
        question,
        progress,
        accuracy,
        None if build is None else (lambda case: other(case, build)),
        partial(again, options),
        None if options.no_pair else Pairing(lambda case, entry: other(case, entry.provenance.commit)),
        keep,
        partial(remake, options, question.gated),
    )


def keeping(state: Path, run: str, warn: Callable[[str], None]) -> Callable[[Generator, LaunchJob, Taken], None]:
    """Adds each launch to the history of its class below `state`; where that cannot be written, one warning says so."""
    told: list[str] = []

    def keep(generator: Generator, job: LaunchJob, taken: Taken) -> None:
        if taken.failed or told:
            return
        class_id = devices()[generator.case.device].identity().class_id
        weights = tuple(rank.weight_hash for rank in generator.loaded)
        try:
            History.of(state, class_id).add(past_of(generator.case, weights, job, taken, run))
        except OSError as error:
            told.append(f"the launches of this run are not kept for `genqual rebase`: {error}")
            warn(told[0])

    return keep
