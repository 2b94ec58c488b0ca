"""Fault-free runs judged by each other: the spread is said, a run that is not fault-free stands out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from genqual.conformance.calibration import leave_one_out, summary
from genqual.conformance.references.make import with_envelope
from genqual.errors import BadInput

from .pretend import noise, referred, scored


def test_honest_runs_pass_by_each_others_envelope() -> None:
    reference, logits = referred()
    fault_free = {f"run {n}": scored(logits + noise(logits.shape, n), reference) for n in range(6)}
    found = leave_one_out(reference, "bf16", fault_free)
    assert [one.run for one in found] == list(fault_free)
    assert all(0.8 < one.ratio < 1.2 and not one.alarm for one in found)
    assert all(0 < one.cell_sigmas < 3 for one in found)
    said = summary("bf16", found)
    assert "6 fault-free runs" in said
    assert "0 of 6 would alarm" in said


def test_one_that_is_further_off_would_alarm() -> None:
    reference, logits = referred()
    runs = {f"run {n}": scored(logits + noise(logits.shape, n), reference) for n in range(5)}
    off = {**runs, "off": scored(logits + noise(logits.shape, 9, sigma=0.024), reference)}
    found = {one.run: one for one in leave_one_out(reference, "bf16", off)}
    assert found["off"].ratio > 1.1
    far = {**runs, "far": scored(logits + noise(logits.shape, 9, sigma=0.06), reference)}
    with pytest.raises(BadInput, match="more than"):
        leave_one_out(reference, "bf16", far)


def test_the_committed_envelope_judges_them_as_well() -> None:
    reference, logits = referred()
    runs = {f"run {n}": scored(logits + noise(logits.shape, n), reference) for n in range(5)}
    committed = with_envelope(reference, "bf16", {name: runs[name] for name in ("run 0", "run 1")})
    found = leave_one_out(committed, "bf16", runs)
    assert all(one.committed is not None and 0.8 < one.committed < 1.2 for one in found)
    assert "of the committed one" in summary("bf16", found)
    without = replace(reference, envelopes={})
    assert all(one.committed is None for one in leave_one_out(without, "bf16", runs))
    strict = {name: scored(logits + noise(logits.shape, n, sigma=0.005), reference) for n, name in enumerate("ab")}
    tight = with_envelope(reference, "bf16", strict)
    assert all(one.alarm for one in leave_one_out(tight, "bf16", runs)), "the committed envelope refuses them"


def test_four_runs_are_too_few() -> None:
    reference, logits = referred()
    runs = {f"run {n}": scored(logits + noise(logits.shape, n), reference) for n in range(4)}
    with pytest.raises(BadInput, match="4 fault-free runs"):
        leave_one_out(reference, "bf16", runs)
