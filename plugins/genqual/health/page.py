"""The document of `genqual node` as one page to print or to file: Jinja2 escapes everything, it asks no network."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from typing import Final

from genqual import __version__
from genqual.health.finding import NodeVerdict, Outcome
from genqual.storage.sinks.retrying import need

WORST_FIRST: Final = (Outcome.BAD, Outcome.UNKNOWN, Outcome.ALLOWED, Outcome.UNAVAILABLE, Outcome.OK)


def page(verdict: NodeVerdict, *, signed_by: Sequence[str] = ()) -> str:
    """HTML of one document, worst findings first; `signed_by` are the ids of keys, told as they are.

    Raises BadInput where jinja2 is not installed (extra `report`).
    """
    need("jinja2", "the page of a node", extra="report")
    import jinja2

    made = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    text = resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    findings = sorted(verdict.findings, key=lambda one: (WORST_FIRST.index(one.outcome), one.check, one.entity))
    counts = {str(kind): sum(one.outcome is kind for one in findings) for kind in WORST_FIRST}
    return made.from_string(text).render(
        verdict=verdict, findings=findings, counts=counts, signed_by=list(signed_by), version=__version__
    )
