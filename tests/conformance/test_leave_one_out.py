"""Honest runs judged by each other: the spread is said, a run that is not honest stands out."""

from __future__ import annotations

import pytest

from genqual.conformance.calibration import leave_one_out, summary
from genqual.errors import BadInput

from .pretend import noise, referred, scored


def test_honest_runs_pass_by_each_others_envelope() -> None:
    reference, logits = referred()
    honest = {f"run {n}": scored(logits + noise(logits.shape, n), reference) for n in range(6)}
    found = leave_one_out(reference, "bf16", honest)
    assert [one.run for one in found] == list(honest)
    assert all(0.8 < one.ratio < 1.2 and not one.alarm for one in found)
    assert all(0 < one.cell_sigmas < 3 for one in found)
    said = summary("bf16", found)
    assert "6 honest runs" in said
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


def test_four_runs_are_too_few() -> None:
    reference, logits = referred()
    runs = {f"run {n}": scored(logits + noise(logits.shape, n), reference) for n in range(4)}
    with pytest.raises(BadInput, match="4 honest runs"):
        leave_one_out(reference, "bf16", runs)
