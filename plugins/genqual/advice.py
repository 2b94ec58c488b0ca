"""What a failed verdict says to the person who has to act on it: one paragraph, with the next command."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from genqual.conformance.judgement import Judgement
from genqual.devices.registry import processor
from genqual.engines.registry import engine
from genqual.engines.server_request import suspicion
from genqual.spec import Case, Json, compute_dtype


def paragraph(case: Case, prop: str, judgement: Judgement, *, restarted: bool) -> str:
    """Case, property, finding with its smallest example and first bad step, and where to look next."""
    said = [f"{case}: {prop.replace('_', ' ')}: {judgement.explanation}"]
    if restarted:
        said.append("The weights had changed; the ranks were started afresh.")
    if judgement.tier == "logits":
        said.append(_next(case, judgement))
    return " ".join(one for one in said if one)


def suspected(judgement: Judgement, inspection: Mapping[str, Json]) -> Judgement:
    """A failed judgement that names what may have changed the text before the engine did: what its server refused."""
    refused = inspection.get("refused")
    words = suspicion(map(str, refused)) if isinstance(refused, list) and judgement.status == "fail" else ""
    return replace(judgement, explanation=f"{judgement.explanation} {words}") if words else judgement


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
