"""The recurrent parts against the same mathematics without a state: every token by a sum over all before it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from genqual.conformance.oracle.convolution import causal_convolution
from genqual.conformance.oracle.delta_rule import gated_delta_rule, unit_length
from genqual.conformance.oracle.state_space import softplus, state_space

F64 = NDArray[np.float64]
SPLITS = pytest.mark.parametrize("widths", [[13], [1] * 13, [5, 1, 7], [2, 11]], ids=str)


def drawn(*shape: int, seed: int = 0) -> F64:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def convolved(x: F64, taps: F64, bias: F64) -> F64:
    """Every output by three loops, as the definition has it."""
    out = np.tile(bias, (len(x), 1))
    for t in range(len(x)):
        for channel in range(x.shape[1]):
            for back in range(taps.shape[1]):
                if t >= back:
                    out[t, channel] += x[t - back, channel] * taps[channel, taps.shape[1] - 1 - back]
    return out


@SPLITS
@pytest.mark.parametrize("width", [1, 2, 4])
def test_a_causal_convolution_goes_on_where_it_was(widths: list[int], width: int) -> None:
    x, taps, bias = drawn(13, 5), drawn(5, width), drawn(5)
    parts, state, start = [], None, 0
    for count in widths:
        out, state = causal_convolution(x[start : start + count], taps, bias, state)
        parts.append(out)
        start += count
    np.testing.assert_allclose(np.concatenate(parts), convolved(x, taps, bias), atol=1e-13)
    assert state is not None
    np.testing.assert_array_equal(state, x[len(x) - (width - 1) :])


def test_a_convolution_of_fewer_tokens_than_taps_pads_with_zeros() -> None:
    x, taps = drawn(1, 3), drawn(3, 4)
    out, state = causal_convolution(x, taps)
    np.testing.assert_allclose(out, x * taps[:, -1])
    np.testing.assert_array_equal(state, np.concatenate([np.zeros((2, 3)), x]))


def unrolled_delta_rule(q: F64, k: F64, v: F64, log_decay: F64, beta: F64) -> F64:
    """o_t = sum over j of q_t^T [product over i in j+1..t of alpha_i (I - beta_i k_i k_i^T)] beta_j k_j v_j^T."""
    tokens, heads, _ = v.shape
    shared = heads // q.shape[1]
    out = np.zeros(v.shape)
    for head in range(heads):
        queries, keys = q[:, head // shared], k[:, head // shared]
        for t in range(tokens):
            along = queries[t]  # q_t^T times the product so far, from the right end inwards
            for j in range(t, -1, -1):
                out[t, head] += (along @ keys[j]) * beta[j, head] * v[j, head]
                forget = np.eye(q.shape[2]) - beta[j, head] * np.outer(keys[j], keys[j])
                along = np.exp(log_decay[j, head]) * (along @ forget)
    return out


@SPLITS
def test_the_gated_delta_rule_is_the_product_that_the_paper_unrolls(widths: list[int]) -> None:
    q, k, v = drawn(13, 2, 6), unit_length(drawn(13, 2, 6, seed=1)), drawn(13, 4, 5)
    log_decay, beta = -np.abs(drawn(13, 4)), 1 / (1 + np.exp(-drawn(13, 4, seed=2)))
    parts, state, start = [], None, 0
    for count in widths:
        now = slice(start, start + count)
        out, state = gated_delta_rule(q[now], k[now], v[now], log_decay[now], beta[now], state)
        parts.append(out)
        start += count
    np.testing.assert_allclose(np.concatenate(parts), unrolled_delta_rule(q, k, v, log_decay, beta), atol=1e-12)


def test_the_delta_rule_overwrites_what_a_key_remembers() -> None:
    """With beta 1, no decay and unit keys, a key's latest value is read back, whatever was there."""
    k = np.zeros((3, 1, 4))
    k[[0, 1, 2], 0, [1, 2, 1]] = 1.0
    v = drawn(3, 1, 2)
    _, state = gated_delta_rule(k, k, v, np.zeros((3, 1)), np.ones((3, 1)))
    np.testing.assert_allclose(state[0, 1], v[2, 0], atol=1e-15)
    np.testing.assert_allclose(state[0, 2], v[1, 0], atol=1e-15)


def test_unit_length_keeps_its_eps_inside_the_root() -> None:
    np.testing.assert_allclose(unit_length(np.array([3.0, 4.0])), np.array([3.0, 4.0]) / np.sqrt(25 + 1e-6))
    np.testing.assert_array_equal(unit_length(np.zeros(2)), np.zeros(2))


def attention_form(x: F64, dt: F64, a: F64, b: F64, c: F64, d: F64) -> F64:
    """The dual form: y_t = sum over j <= t of (c_t . b_j) exp(a (dt_{j+1} + ... + dt_t)) dt_j x_j, and d x_t."""
    tokens, heads, _ = x.shape
    shared = heads // b.shape[1]
    out = x * d[:, None]
    for head in range(heads):
        for t in range(tokens):
            for j in range(t + 1):
                fade = np.exp(a[head] * sum(dt[j + 1 : t + 1, head]))
                out[t, head] += (c[t, head // shared] @ b[j, head // shared]) * fade * dt[j, head] * x[j, head]
    return out


@SPLITS
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_the_state_space_is_its_attention_form(widths: list[int], groups: int) -> None:
    x, dt, a, d = drawn(13, 4, 3), softplus(drawn(13, 4)), -np.exp(drawn(4)), drawn(4, seed=1)
    b, c = drawn(13, groups, 6), drawn(13, groups, 6, seed=1)
    parts, state, start = [], None, 0
    for count in widths:
        now = slice(start, start + count)
        out, state = state_space(x[now], dt[now], a, b[now], c[now], d, state)
        parts.append(out)
        start += count
    np.testing.assert_allclose(np.concatenate(parts), attention_form(x, dt, a, b, c, d), atol=1e-12)


def test_softplus_neither_overflows_nor_loses_small_steps() -> None:
    np.testing.assert_allclose(softplus(np.array([-800.0, -40.0, 0.0, 800.0])), [0.0, np.exp(-40.0), np.log(2), 800.0])


def test_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="3 value heads over 2 key heads"):
        gated_delta_rule(drawn(2, 2, 4), drawn(2, 2, 4), drawn(2, 3, 4), drawn(2, 3), drawn(2, 3))
    with pytest.raises(ValueError, match="3 heads over 2 groups"):
        state_space(drawn(2, 3, 4), drawn(2, 3), drawn(3), drawn(2, 2, 5), drawn(2, 2, 5), drawn(3))
    with pytest.raises(ValueError, match="want 3 channels"):
        causal_convolution(drawn(2, 4), drawn(3, 2))
