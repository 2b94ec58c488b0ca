"""The checksum of logits: what it is, by integers; any single wrong bit changes it; where it is taken."""

from __future__ import annotations

import struct
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genqual.health.prints_in_rank import of_logits, step_prints

GOLDEN = 0x9E3779B97F4A7C15


def by_integers(data: bytes) -> str:
    """The same sum, in Python's own integers."""
    data += b"\0" * (-len(data) % 8)
    words = struct.unpack(f"<{len(data) // 8}q", data)
    return f"{sum(word * (2 * place + 1) * GOLDEN for place, word in enumerate(words)) % 2**64:016x}"


@given(st.lists(st.floats(width=32), min_size=1, max_size=33), st.sampled_from([torch.float32, torch.bfloat16]))
def test_it_is_the_sum_that_integers_give(values: list[float], dtype: torch.dtype) -> None:
    logits = torch.tensor(values).to(dtype)
    assert of_logits(logits) == by_integers(bytes(logits.view(torch.uint8).tolist()))


@given(st.integers(0, 2 * 77 * 32 - 1))
def test_every_single_bit_changes_it(bit: int) -> None:
    logits = torch.linspace(-9.0, 9.0, 2 * 77).view(2, 77)
    flipped = logits.clone()
    flipped.view(torch.uint8).view(-1)[bit // 8] ^= 1 << bit % 8
    assert of_logits(logits) != of_logits(flipped)


def test_rows_and_places_count() -> None:
    logits = torch.arange(12.0).view(2, 6)
    assert len({of_logits(one) for one in (logits, logits.flip(0), logits.flip(1), logits.view(3, 4)[:, :3])}) == 4
    assert of_logits(logits.t().contiguous().t()) == of_logits(logits), "of the numbers, however they lie in memory"


class Loop:
    """An engine's loop of two steps, with or without an instance's own way to run it."""

    def run_generate(self, **inputs: Any) -> None:
        for step in (1.0, 2.0):
            for processor in inputs["logits_processor"]:
                processor(None, torch.full((1, 4), step))


def test_it_is_taken_of_each_step_and_taken_back() -> None:
    engine = Loop()
    with step_prints(engine) as prints:
        engine.run_generate(logits_processor=[])
    assert prints == [of_logits(torch.full((1, 4), step)) for step in (1.0, 2.0)]
    assert "run_generate" not in vars(engine)
    own = engine.run_generate
    engine.run_generate = own  # type: ignore[method-assign]  # a fault's, which must survive
    with pytest.raises(RuntimeError), step_prints(engine):
        raise RuntimeError
    assert vars(engine)["run_generate"] == own
    with step_prints(object()) as none:
        pass
    assert none == []
