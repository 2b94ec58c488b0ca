"""MBU and MFU against published arithmetic, a loop over steps, and what they must say about caches."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genqual.cases import Workload
from genqual.errors import BadInput
from genqual.metrics.compute import compute
from genqual.metrics.utilisation import Roofline, kv_bytes_read, mfu, step_bandwidth
from tests.performance.runs import MIB, rank, roofline, run, value


def test_mbu_is_that_of_the_published_example() -> None:
    # Databricks, "LLM inference performance engineering": 7B parameters at 16 bit and a TPOT of 14 ms move 1 TB/s; of
    # a peak of 2 TB/s that is an MBU of 50 %.
    workload = Workload(batch=1, input_length=1, new_tokens=2)
    seven = rank(weight_bytes=14_000_000_000, parameters=7_000_000_000, kv_bytes_per_token=0)
    found = compute([run([0.1, 0.114])], workload, [seven], rooflines=[roofline((1024 * MIB, 2e12))])
    assert found["mbu"].value == pytest.approx(0.5)


def test_mfu_by_hand() -> None:
    # 2 x 7e9 x 1024 tokens = 14.3 TFLOP in 100 ms = 143 TFLOP/s, of 300.
    workload = Workload(batch=2, input_length=512, new_tokens=1)
    seven = rank(parameters=7_000_000_000)
    found = compute([run([0.1], batch=2)], workload, [seven], rooflines=[roofline(flop_per_s=300e12)])
    assert found["mfu"].value == pytest.approx(2 * 7 * 1.024 / 0.1 / 300)


@given(st.integers(1, 64), st.integers(1, 512), st.integers(2, 64))
def test_kv_bytes_are_the_mean_over_the_decode_steps(batch: int, length: int, new: int) -> None:
    cached, read = length, []
    for _ in range(new - 1):  # each step reads what is cached and adds the token it was fed
        read.append(batch * cached * 4096)
        cached += 1
    assert kv_bytes_read(Workload(batch, length, new), rank()) == pytest.approx(sum(read) / len(read))


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_even_shards_are_as_busy_as_their_ranks(ranks: int) -> None:
    workload = Workload(1, 8, 3)
    whole = compute([run([1.0, 1.5, 2.0])], workload, [rank()], rooflines=[roofline()])
    shards = compute([run([1.0, 1.5, 2.0])], workload, [rank()] * ranks, rooflines=[roofline()] * ranks)
    for name in ("mbu", "mfu"):
        assert shards[name].value == pytest.approx(whole[name].value)


@pytest.mark.parametrize(
    ("size", "buffer"), [(1, 1), (MIB, 1), (MIB + 1, 64), (64 * MIB, 64), (65 * MIB, 1024), (9000 * MIB, 1024)]
)
def test_weights_are_compared_with_a_buffer_of_like_size(size: int, buffer: int) -> None:
    assert roofline().bandwidth(size).size == buffer * MIB


def test_a_small_buffer_slowed_by_kernel_launches_is_no_bound() -> None:
    launched = roofline((MIB, 5e9), (64 * MIB, 900e9), (1024 * MIB, 2000e9))
    assert launched.bandwidth(10).bytes_per_s == 2000e9


def test_cached_weights_are_named() -> None:
    _, _, about = step_bandwidth(Workload(1, 8, 3), [rank(weight_bytes=20 * MIB)], [roofline()])
    assert "cache of 32 MiB" in about
    assert "over 64 MiB" in about
    _, _, about = step_bandwidth(Workload(1, 8, 3), [rank(weight_bytes=40 * MIB)], [roofline()])
    assert "cache of" not in about
    _, _, about = step_bandwidth(Workload(1, 8, 3), [rank()], [roofline(cache_bytes=None)])
    assert "unknown" in about


def test_above_one_is_never_silent() -> None:
    workload = Workload(1, 8, 3)
    ranks = [rank()]
    fast = compute([run([1e-6, 2e-6, 3e-6])], workload, ranks, rooflines=[roofline()])
    slow = compute([run([1.0, 2.0, 3.0])], workload, ranks, rooflines=[roofline()])
    for name in ("mbu", "mfu"):
        assert value(fast[name]) > 1.0
        assert "above 1" in fast[name].note
        assert value(slow[name]) < 1.0
        assert "above 1" not in slow[name].note


def test_without_a_probe_there_is_no_bound() -> None:
    found = compute([run([1.0, 2.0, 3.0])], Workload(1, 8, 3), [rank()])
    assert found["mbu"].value is None
    assert found["mfu"].value is None
    assert "no roofline" in found["mbu"].note


def test_mfu_sums_ranks() -> None:
    assert mfu(2.0, Workload(1, 10, 2), [rank(parameters=5)], [roofline(flop_per_s=25.0)]) == 2.0


@pytest.mark.parametrize("rate", [0.0, -1.0, math.nan, math.inf])
def test_a_probe_without_a_rate_is_refused(rate: float) -> None:
    with pytest.raises(BadInput, match="rate"):
        roofline((MIB, rate))
    with pytest.raises(BadInput, match="rate"):
        roofline(flop_per_s=rate)


def test_reads_out_of_order_are_refused() -> None:
    with pytest.raises(BadInput, match="sorted"):
        roofline((64 * MIB, 1.0), (MIB, 1.0))


def test_the_answer_of_another_probe_is_refused() -> None:
    with pytest.raises(KeyError):
        Roofline.from_json({"read": []})


@given(st.integers(1, 64), st.integers(1, 512), st.integers(2, 64))
def test_a_state_is_read_whole_in_each_step_whatever_the_length(batch: int, length: int, new: int) -> None:
    workload = Workload(batch, length, new)
    keys_alone = kv_bytes_read(workload, rank())
    assert kv_bytes_read(workload, rank(state_bytes=5000)) - keys_alone == pytest.approx(batch * 5000)
    assert kv_bytes_read(workload, rank(kv_bytes_per_token=0, state_bytes=5000)) == batch * 5000
