"""The table of failing outcomes: component, severity, entity and action of each. Reads its TOML; decides nothing."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files
from typing import Any

from pydantic import BaseModel, ConfigDict

from genqual.health.finding import Finding, Outcome, Severity


class Meaning(BaseModel):
    """What one failing outcome means for whoever runs the node."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    component: str
    entity: str
    severity: Severity
    action: str


@cache
def table() -> dict[str, Meaning]:
    """Every failing outcome by its id, `check.outcome`."""
    text = files("genqual.health").joinpath("checks.toml").read_text(encoding="utf-8")
    return {name: Meaning.model_validate(one) for name, one in tomllib.loads(text)["outcome"].items()}


def bad(outcome: str, entity: str, evidence: str, **more: Any) -> Finding:
    """A failing finding with what the table says of it; mild ones are told and do not make a node unfit.

    `outcome` is `check.what`. Raises KeyError where the table does not have it: no failure goes without an action.
    """
    meaning = table()[outcome]
    mild = meaning.severity in (Severity.NOTE, Severity.WARNING)
    return Finding(
        check=outcome.partition(".")[0],
        entity=entity,
        outcome=Outcome.OK if mild else Outcome.BAD,
        severity=meaning.severity,
        component=meaning.component,
        action=meaning.action,
        evidence=evidence,
        **more,
    )
