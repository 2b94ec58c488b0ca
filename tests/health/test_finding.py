"""The verdict of a node: unknown is never fit, no order decides, and no error ends in a pass."""

from __future__ import annotations

import random
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from genqual.health.finding import Allowed, Finding, NodeVerdict, Outcome, allow, verdict_of

TODAY = date(2026, 11, 29)


def finding(outcome: Outcome, *, check: str = "memory", entity: str = "core 0", required: bool = False) -> Finding:
    return Finding(check=check, entity=entity, outcome=outcome, required=required, signal=1.0, evidence="seen")


def judged(*findings: Finding, required: tuple[str, ...] = ()) -> NodeVerdict:
    return verdict_of(findings, required=required, node="n", hardware_class="c", level="1")


FINDINGS = st.lists(
    st.builds(
        finding,
        st.sampled_from(list(Outcome)),
        check=st.sampled_from(["memory", "links", "known answers"]),
        entity=st.sampled_from(["core 0", "core 1"]),
        required=st.booleans(),
    )
)


@given(FINDINGS, st.sets(st.sampled_from(["memory", "links", "energy"])), st.randoms())
def test_the_order_of_checks_changes_no_verdict(
    findings: list[Finding], required: set[str], generator: random.Random
) -> None:
    one = judged(*findings, required=tuple(required))
    shuffled = findings[:]
    generator.shuffle(shuffled)
    other = judged(*shuffled, required=tuple(sorted(required, reverse=True)))
    assert (one.verdict, one.reasons) == (other.verdict, other.reasons)


@given(FINDINGS, st.sets(st.sampled_from(["memory", "links", "energy"])))
def test_fit_means_that_nothing_is_bad_and_every_required_check_said_ok(
    findings: list[Finding], required: set[str]
) -> None:
    fit = judged(*findings, required=tuple(required)).verdict == "fit"
    bad = any(one.outcome == "bad" for one in findings)
    silent = any(one.outcome == "unknown" or (one.required and one.outcome == "unavailable") for one in findings)
    missing = required - {one.check for one in findings}
    assert fit == (bool(findings) and not bad and not silent and not missing)


def test_nothing_measured_is_not_fit() -> None:
    assert judged().exit_code == 1
    assert "no check gave a signal" in judged().reasons


def test_what_this_kernel_cannot_tell_is_no_zero() -> None:
    assert judged(finding(Outcome.UNAVAILABLE), finding(Outcome.OK, check="links")).verdict == "fit"
    assert judged(finding(Outcome.UNAVAILABLE, required=True)).verdict == "unfit"


def test_ok_of_a_required_check_needs_a_signal_and_bad_needs_evidence() -> None:
    with pytest.raises(ValidationError, match="saw nothing is unknown"):
        Finding(check="memory", entity="core 0", outcome=Outcome.OK, required=True)
    with pytest.raises(ValidationError, match="without evidence"):
        Finding(check="memory", entity="core 0", outcome=Outcome.BAD)


def test_a_document_cannot_contradict_its_findings() -> None:
    made = judged(finding(Outcome.BAD)).model_dump() | {"verdict": "fit"}
    with pytest.raises(ValidationError, match="contradicts its findings"):
        NodeVerdict.model_validate(made)


@pytest.mark.parametrize(
    ("entry", "outcome"),
    [
        (Allowed(check="memory", entity="core 0", reason="known", expires=TODAY), Outcome.ALLOWED),
        (Allowed(check="memory", entity="core 0", reason="known", expires=date(2026, 11, 28)), Outcome.BAD),
        (Allowed(check="memory", entity="core 1", reason="known", expires=TODAY), Outcome.BAD),
        (Allowed(check="links", entity="core 0", reason="known", expires=TODAY), Outcome.BAD),
    ],
    ids=["in force", "expired", "another entity", "another check"],
)
def test_an_allow_list_is_narrow_and_dated(entry: Allowed, outcome: Outcome) -> None:
    (one,) = allow([finding(Outcome.BAD)], [entry], TODAY)
    assert one.outcome is outcome
    assert judged(one).verdict == ("fit" if outcome is Outcome.ALLOWED else "unfit")


def test_what_is_unknown_cannot_be_allowed_away() -> None:
    entry = Allowed(check="memory", entity="core 0", reason="known", expires=TODAY)
    (one,) = allow([finding(Outcome.UNKNOWN, required=True)], [entry], TODAY)
    assert judged(one).verdict == "unfit"
