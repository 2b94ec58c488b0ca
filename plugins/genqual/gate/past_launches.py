"""From a launch of a run to what the history of its class keeps of it. Reads a clock; writes nothing."""

from __future__ import annotations

import time
from collections.abc import Sequence

from genqual.cases import Case, Json
from genqual.gate.case_launches import Taken, identity_here, subject_of
from genqual.gate.history import Past, build_here, control_of
from genqual.gate.launch_plan import SECTIONS, LaunchJob, frozen_source
from genqual.gate.pairing import packages_of
from genqual.metrics.registry import is_exact, rule


def past_of(case: Case, weights: Sequence[str], job: LaunchJob, taken: Taken, run: str) -> list[Past]:
    """A line for each metric that this launch measured undisturbed, and whose launches vary at all."""
    now, identity = time.time(), identity_here(case.device)
    build = build_here(packages_of(case))
    found = []
    for metric, launch in taken.metrics.items():
        if is_exact(metric) or taken.why_not(metric, None, "engine"):
            continue
        shape: Json = job.shape.model_dump() if rule(metric).stepped else None
        subject = subject_of(case, weights, job.workloads[SECTIONS[metric]], metric)
        control = control_of(identity, frozen_source(), shape, taken.hook, launch)
        found.append(Past(now, run, subject.key, control, build, launch))
    return found
