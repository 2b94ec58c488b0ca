"""What a failed verdict says to the person who has to act on it: one paragraph, with the next command."""

from __future__ import annotations

from genqual.conformance.judgement import Judgement
from genqual.devices.registry import processor
from genqual.engines.registry import engine
from genqual.spec import Case, compute_dtype


def paragraph(case: Case, prop: str, judgement: Judgement, *, restarted: bool) -> str:
    """Case, property, finding with its smallest example and first bad step, and where to look next."""
    said = [f"{case}: {prop.replace('_', ' ')}: {judgement.explanation}"]
    if restarted:
        said.append("The weights had changed; the ranks were started afresh.")
    if judgement.tier == "logits":
        said.append(_next(case, judgement))
    return " ".join(one for one in said if one)


def _next(case: Case, judgement: Judgement) -> str:
    if judgement.lane != "fp32":
        return "Does it fail with --dtype fp32 as well? There a fault of logic stands clear of rounding."
    if engine(case.engine).lacking("states") is not None:
        return ""
    ranks = f" --ranks {case.ranks}" if case.ranks > 1 else ""
    named = "" if case.engine == "transformers" else f" --engine {case.engine}"
    device = "" if case.device == processor().name else f" --device {case.device}"
    return (
        f"First layer that is wrong, if a single pass is: `genqual bisect {case.model}{named}{device}{ranks} --dtype "
        f"{compute_dtype(case.dtype)}`."
    )
