"""The contract's dataclasses, to the wire and back."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genqual.cases import Json
from genqual.engines.base import Generated, Loaded, LoadRequest, Memory, Scores
from genqual.models.spec import ModelSpec
from genqual.ranks.codec import decode, encode
from genqual.ranks.protocol import ChannelError, Message
from tests.ranks.test_channel import both_ways

MODEL = ModelSpec("llama-tiny", "embedded", "llama-tiny", "llama")
TIMES = st.floats(0, 1e6)
COUNTS = st.integers(0, 1 << 50)
VALUES = st.one_of(
    st.builds(
        Loaded,
        *(TIMES, COUNTS, COUNTS, COUNTS, st.none() | COUNTS, COUNTS, st.text()),
        phases=st.dictionaries(st.text(), TIMES, max_size=3),
    ),
    st.builds(Memory, COUNTS, COUNTS, st.text()),
    st.builds(
        LoadRequest,
        st.just(MODEL),
        *(st.text(), st.text(), COUNTS, COUNTS, COUNTS, COUNTS, COUNTS),
        options=st.dictionaries(st.text(), st.none() | COUNTS, max_size=3),
    ),
)


def over_the_wire(value: Any) -> Any:
    got = both_ways(Message(*encode(value)))
    return decode(type(value), got.fields, got.arrays)


@settings(deadline=None)  # the host is shared, and nothing here is about speed
@given(VALUES)
def test_plain_values_come_back_equal(value: Any) -> None:
    assert over_the_wire(value) == value


def test_arrays_and_none_come_back() -> None:
    generated = Generated(np.arange(6).reshape(2, 3), np.array([0.5, 0.25, 1e-9]), 0.75, 1.5)
    back = over_the_wire(generated)
    assert back.tokens.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert back.step_s.tolist() == [0.5, 0.25, 1e-9]
    assert (back.wall_s, back.cpu_s) == (0.75, 1.5)
    assert (back.top_ids, back.top_logprobs) == (None, None)
    told = dataclasses.replace(generated, top_ids=np.ones((3, 2, 2), np.int64), top_logprobs=np.full((3, 2, 2), -0.1))
    assert over_the_wire(told).top_ids.tolist() == [[[1, 1]] * 2] * 3
    assert (over_the_wire(told).top_logprobs == -0.1).all()
    flat = np.zeros((1, 1))
    scores = Scores(np.zeros((1, 1, 2), np.float32), flat.astype(np.int64), flat, flat, flat, flat == 0, None)
    assert over_the_wire(scores).logits is None
    full = dataclasses.replace(scores, logits=np.full((1, 1, 3), np.nan, np.float32))
    assert np.isnan(over_the_wire(full).logits).all()


@dataclasses.dataclass(frozen=True)
class Mixed:
    rate: float
    pair: tuple[int, ...] = ()


def test_numpy_scalars_and_tuples_come_back_plain() -> None:
    back = over_the_wire(Mixed(np.float64(0.5), (1, 2)))
    assert back == Mixed(0.5, (1, 2))
    assert type(back.rate) is float


@pytest.mark.parametrize("fields", [{"peak": 1}, {"peak": 1, "current": 1, "source": "", "more": 2}])
def test_missing_and_unknown_fields_are_told(fields: dict[str, Json]) -> None:
    with pytest.raises(ChannelError, match="Memory"):
        decode(Memory, fields)


@pytest.mark.parametrize("value", [{"a": 1}, Memory, 3])
def test_only_dataclasses_are_encoded(value: object) -> None:
    with pytest.raises(ChannelError, match="only dataclasses"):
        encode(value)
