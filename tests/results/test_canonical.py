from __future__ import annotations

import hashlib
import json
import math
import shutil
import struct
import subprocess
from random import Random
from typing import Any

import numpy as np
import pytest
import rfc8785
from hypothesis import example, given
from hypothesis import strategies as st

from genqual.digest import canonical
from genqual.digest import of_json as digest
from genqual.records.canonical import LARGEST, parse, plain

NUMBERS = st.integers(-LARGEST, LARGEST) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


def test_the_example_of_the_rfc() -> None:
    """RFC 8785, section 3.2.2 and 3.2.4: input and expected bytes as printed there."""
    given_text = (
        '{"numbers":[333333333.33333329,1E30,4.50,2e-3,0.000000000000000000000000001],'
        '"string":"\\u20ac$\\u000F\\u000aA\'\\u0042\\u0022\\u005c\\\\\\"\\/","literals":[null,true,false]}'
    )
    expected = (
        '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        '"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )
    assert canonical(parse(given_text.encode())) == expected.encode()


@given(st.dictionaries(st.text(max_size=5), VALUES, min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_the_order_of_keys_changes_nothing(value: Any, random: Random) -> None:
    keys = list(value)
    random.shuffle(keys)
    assert canonical({key: value[key] for key in keys}) == canonical(value)


@given(VALUES)
def test_what_is_written_is_read_back_to_the_same_bytes(value: Any) -> None:
    written = canonical(value)
    assert canonical(parse(written)) == written


@given(VALUES)
def test_every_json_reader_agrees_with_what_is_written(value: Any) -> None:
    """As JavaScript reads it: every number is a double."""
    assert json.loads(canonical(value), parse_int=float) == json.loads(json.dumps(value), parse_int=float)


@pytest.mark.skipif(shutil.which("node") is None, reason="no node: RFC 8785 defines numbers as JavaScript prints them")
def test_numbers_are_printed_as_javascript_prints_them() -> None:
    bits = Random(1)
    numbers = [struct.unpack("<d", bits.randbytes(8))[0] for _ in range(2000)] + [10.0**k for k in range(-30, 30)]
    text = json.dumps([number for number in numbers if math.isfinite(number)])
    program = "console.log(JSON.stringify(JSON.parse(require('fs').readFileSync(0))))"
    theirs = subprocess.run(["node", "-e", program], input=text, capture_output=True, text=True, check=True, timeout=60)
    assert canonical(json.loads(text)).decode() == theirs.stdout.strip()


NEAR = st.sampled_from([0, -0.0, 1.0, 1e-4, 9.9e-5, 1e-7, 1e15, 1e16, 1e21, 1e22, 2.0**53 - 1, LARGEST, -1e-5])
FEW = st.recursive(
    NEAR | NUMBERS | st.booleans() | st.text(st.sampled_from('a"\\/e0.,:[]{}\x07\x7fé\ue000😀'), max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("aB😀\ue000", max_size=3), inner, max_size=4),
    max_leaves=8,
)


@given(VALUES | FEW)
@example({"b": 1, "a": [2, {"d": True, "c": "x"}]})
@example({"\ue000": 1, "😀": 2})  # by code point and by UTF-16 unit these stand in another order
@example({"a": [1.0, 1e16, 1e-5, -0.0], "b": 10.0})
def test_the_fast_way_writes_what_the_standard_says(value: Any) -> None:
    """A quicker way beside rfc8785, as there was one, writes the same bytes or is not there."""
    assert canonical(value) == rfc8785.dumps(value)


@pytest.mark.parametrize(
    "value", [{1: 2}, {"a": {None: 1}}, [2**53], float("nan"), [float("inf")], {"a": b"x"}], ids=str
)
def test_what_json_cannot_hold_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        canonical(value)


def test_a_float_that_is_written_as_a_long_integer_is_read_back() -> None:
    """1e17 is written 100000000000000000, which the canonicaliser refuses as an integer."""
    assert canonical({"flops": 1.5e17}) == b'{"flops":150000000000000000}'
    assert canonical(parse(b'{"flops":150000000000000000}')) == b'{"flops":150000000000000000}'


def test_digest_is_sha256_of_the_bytes() -> None:
    value: Any = {"b": [1, 2.5, None, "é"], "a": {"z": True}}
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert digest(value) == hashlib.sha256(text.encode()).hexdigest()


def test_plain_makes_numpy_and_tuples_plain() -> None:
    made = plain({"a": np.float32(0.5), "b": np.int64(3), "c": (1, 2), "d": np.float64(0.25)})
    assert made == {"a": 0.5, "b": 3, "c": [1, 2], "d": 0.25}
    assert [type(value) for value in made.values()] == [float, int, list, float]


def test_plain_copies_deeply() -> None:
    inner = [1]
    made = plain({"a": inner})
    inner.append(2)
    assert made == {"a": [1]}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"a": [1.0, math.nan]}, r"facts\.a\[1\] is nan.*store null"),
        ({"a": {"b": -math.inf}}, r"facts\.a\.b is -inf"),
        ({"a": 2**53}, "9007199254740992.*store a float"),
        ({1: 2}, "key 1: JSON keys are strings"),
        ({"a": {1, 2}}, r"facts\.a is a set"),
        ({"a": np.zeros(2)}, r"facts\.a is a ndarray"),
    ],
)
def test_plain_names_what_json_cannot_hold(value: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        plain(value, "facts")


@pytest.mark.parametrize(
    "text",
    [b'{"a":NaN}', b'{"a":1,"a":2}', b"\xff", b"{", b"[" * 100_000, b'{"a":Infinity}'],
    ids=lambda t: repr(t[:12]),
)
def test_parse_refuses_what_is_not_strict_json(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse(text)
