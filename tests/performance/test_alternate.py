"""Candidate and reference step take strict turns; slowed steps are slowed inside the candidate's time, nothing else."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from genqual.engines.base import Generated, TokenBatch
from genqual.errors import BadInput, EngineFailed, Unsupported
from genqual.gate import frozen, rank_launch
from genqual.gate.frozen import Frozen
from genqual.gate.launch_plan import frozen_shape
from genqual.gate.rank_launch import LOADS, SLOW_EVERY, Alternation, launch
from genqual.metrics import roofline
from genqual.models.fresh_prompts import fresh_row
from genqual.models.registry import resolve


class Clock:
    """Time that passes only when somebody works; what was done, in order."""

    def __init__(self) -> None:
        self.now = 0.0
        self.done: list[str] = []

    def perf_counter(self) -> float:
        return self.now

    def process_time(self) -> float:
        return self.now

    def work(self, name: str, seconds: float) -> None:
        self.done.append(name)
        self.now += seconds


class Engine:
    """Takes 8 s a prefill and 2 s a decode step, and calls back between steps as the real ones do."""

    def __init__(self, clock: Clock, *, hook: bool = True) -> None:
        self.clock, self.hook = clock, hook
        self.callback: Any = None
        self.asked: list[tuple[bool, bool]] = []
        self.request = SimpleNamespace(device="cpu", model=resolve("llama-tiny"))
        self.model = SimpleNamespace(parameters=lambda: [torch.zeros(1000), torch.zeros(9, device="meta")])

    def between_steps(self, callback: Any) -> None:
        if not self.hook:
            raise Unsupported("no hook here")
        self.callback = callback

    def generate(self, batch: TokenBatch, new_tokens: int) -> Generated:
        start, stamps = self.clock.now, []
        for step in range(new_tokens):
            self.clock.work("candidate", 8.0 if step == 0 else 2.0)
            if self.callback is not None:
                self.callback()
            stamps.append(self.clock.now - start)
        self.clock.now += 5.0  # what generate does when its loop is over is nobody's step
        return Generated(np.zeros((len(batch.ids), new_tokens), np.int64), np.array(stamps), stamps[-1], 1.0)

    def memory(self, *, reset: bool = False, trim: bool = False) -> Any:
        self.asked.append((reset, trim))
        return SimpleNamespace(peak=12345)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(rank_launch, "time", made)
    # What other tests of this process left running is no work of the launch.
    monkeypatch.setattr(psutil.Process, "children", lambda self, recursive=False: [])
    step = lambda *shape: lambda: made.work("frozen", 1.0)  # noqa: E731 - a stand-in for two methods
    fake = SimpleNamespace(decode=step, prefill=step, unit=lambda: made.work("unit", 0.01))
    monkeypatch.setattr(frozen, "Frozen", lambda hidden, layers, dtype, device: fake)
    return made


def run(
    engine: Engine, *sections: str, calls: int = 3, new_tokens: int = 9, dtype: str = "bf16", threads: int = 1
) -> dict[str, Any]:
    ids = np.ones((1, 4), dtype=np.int64)
    return launch(
        engine, sections=list(sections), shape={"hidden": 64, "layers": 1, "dtype": dtype}, new_tokens=new_tokens,
        calls={"decode": calls, "prefill": 12}, slowdown=0.05, threads=threads, decode=ids, prefill=ids, memory=ids,
    )  # fmt: skip


def test_every_decode_step_stands_between_two_frozen_ones(clock: Clock) -> None:
    found = run(Engine(clock), "decode")
    times, marks = found["decode_times"], found["decode_marks"]
    assert times.shape == (3 * 8, 3)  # the prefill of each call is no step
    slowed = marks[:, 1].astype(bool)
    assert times[~slowed, 0] == pytest.approx(2.0)
    assert times[slowed, 0] == pytest.approx(2.1)  # 5 % more: ten units of 0.01 s, inside the candidate's time
    assert times[:, 1:] == pytest.approx(1.0)
    assert slowed.sum() == len(times) // SLOW_EVERY
    steps = [word for word in clock.done if word != "unit"][-3 * 9 * 2 :]  # those of the timed calls
    assert all(a != b for a, b in itertools.pairwise(steps))
    assert found["hook"] == "steps"


@pytest.mark.parametrize(("dtype", "computed"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_frozen_step_of_a_launch_computes_in_the_dtype_of_its_shape(
    dtype: str, computed: torch.dtype, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake: Any = frozen.Frozen
    asked: list[torch.dtype] = []

    def make(hidden: int, layers: int, *, dtype: torch.dtype, device: torch.device) -> Any:
        asked.append(dtype)
        return fake(hidden, layers, dtype, device)

    monkeypatch.setattr(frozen, "Frozen", make)
    run(Engine(clock), "decode", dtype=dtype)
    assert asked == [computed]


def test_a_slowed_step_is_slowed_by_what_its_work_takes_after_a_frozen_step(clock: Clock) -> None:
    def unit() -> None:
        clock.work("unit", 0.05 if clock.done[-1] == "frozen" else 0.01)

    fake: Any = frozen.Frozen(0, 0, dtype=torch.float32, device=torch.device("cpu"))
    fake.unit = unit
    found = run(Engine(clock), "decode")
    times, marks = found["decode_times"], found["decode_marks"]
    assert times[marks[:, 1] == 1, 0] == pytest.approx(2.1)  # 0.05 and five of 0.01: ten in a row would be 0.14


def test_a_prefill_is_timed_from_its_call(clock: Clock) -> None:
    found = run(Engine(clock), "prefill")
    times, marks = found["prefill_times"], found["prefill_marks"]
    assert len(times) == 12
    assert times[marks[:, 1] == 0, 0] == pytest.approx(8.0)
    assert times[marks[:, 1] == 1, 0] == pytest.approx(8.4)


def test_an_engine_without_a_hook_alternates_requests_with_bursts(clock: Clock) -> None:
    found = run(Engine(clock, hook=False), "decode")
    times, marks = found["decode_times"], found["decode_marks"]
    assert found["hook"] == "requests"
    assert len(times) == 3 * SLOW_EVERY
    assert times[marks[:, 1] == 0] == pytest.approx(np.array([[2.0, 1.0, 1.0]] * 9))
    assert times[marks[:, 1] == 1, 0] == pytest.approx(2.1)


class Remote(Engine):
    """Without a hook; what it was sent, and what it says of its cache and its pieces."""

    def __init__(self, clock: Clock, **says: Any) -> None:
        super().__init__(clock, hook=False)
        self.sent: list[list[int]] = []
        self.says = says

    def generate(self, batch: TokenBatch, new_tokens: int) -> Generated:
        self.sent += batch.rows
        return replace(super().generate(batch, new_tokens), **self.says)


def test_an_engine_whose_cache_outlives_a_request_is_sent_each_prompt_once(clock: Clock) -> None:
    engine, ids = Remote(clock), np.ones((2, 4), dtype=np.int64)
    numbers = list(range(100, 400, 2))
    launch(
        engine, sections=["memory", "decode", "prefill"], shape={"hidden": 64, "layers": 1, "dtype": "bf16"},
        new_tokens=9, calls={"decode": 3, "prefill": 12}, slowdown=0.05, threads=1, decode=ids, prefill=ids, memory=ids,
        fresh={"vocabulary": 1024, "seed": "a", "numbers": numbers},
    )  # fmt: skip
    requests = 1 + (1 + 3 * SLOW_EVERY) + (1 + 12 * SLOW_EVERY)
    assert engine.sent == [fresh_row(1024, 4, "a", number) for number in numbers[: 2 * requests]]
    assert len({row[0] for row in engine.sent}) == 2 * requests


def test_a_prefill_that_a_cache_shortened_is_no_launch(clock: Clock) -> None:
    engine = Remote(clock, cached_tokens=np.array([3]))
    with pytest.raises(EngineFailed, match="a prefix cache answered 3 tokens of a prompt"):
        run(engine, "prefill")
    assert len(run(engine, "decode")["decode_times"]) == 3 * SLOW_EVERY, "a step is one all the same"


def test_a_step_is_of_the_tokens_after_the_first_piece(clock: Clock) -> None:
    """Nine tokens of which five arrive with the first: four took what came after."""
    found = run(Remote(clock, pieces=np.array([0] * 5 + [1] * 4)), "decode")
    marks = found["decode_marks"]
    assert found["decode_times"][marks[:, 1] == 0, 0] == pytest.approx(8 * 2.0 / 4)
    with pytest.raises(EngineFailed, match="all arrived in one piece"):
        run(Remote(clock, pieces=np.zeros(9, dtype=np.int64)), "decode")
    with pytest.raises(EngineFailed, match="nobody says"):
        run(Remote(clock, untold="nobody says"), "decode")


def test_the_share_of_its_cores_is_of_the_time_that_is_measured(clock: Clock) -> None:
    assert run(Engine(clock), "decode")["cpu_share"] == pytest.approx(1.0)
    assert run(Engine(clock), "decode", "prefill", threads=2)["cpu_share"] == pytest.approx(0.5)


def test_the_hook_is_taken_away_again(clock: Clock) -> None:
    engine = Engine(clock)
    run(engine, "decode")
    assert engine.callback is None


def test_memory_and_load_need_no_frozen_step(clock: Clock) -> None:
    engine = Engine(clock)
    found = run(engine, "memory", "load")
    assert found["peak_bytes"] == 12345
    assert engine.asked == [(True, True), (False, False)], "what loading freed is given back before the peak"
    assert found["plain_read_s"] >= 0.0
    assert "frozen" not in clock.done


class Reloading(Engine):
    """Loads again in 4 s of which one is no loading; the n-th plain read of its bytes takes n s."""

    def __init__(self, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(clock)
        monkeypatch.setattr(rank_launch, "plain_read", self.read)
        self.able = True

    def read(self, engine: Any) -> float:
        seconds = 1.0 + self.clock.done.count("read")
        self.clock.work("read", seconds)
        return seconds

    def load_again(self) -> Any:
        if not self.able:
            return None
        self.clock.work("load", 4.0)
        return SimpleNamespace(loading_s=3.0)


def test_a_model_is_loaded_again_between_plain_reads_when_all_else_is_done(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = run(Reloading(clock, monkeypatch), "load", "decode")
    assert found["plain_read_s"] == 1.0
    assert found["load_times"].tolist() == [[3.0, 5.5 + 2 * turn, 7.5 + 2 * turn] for turn in range(LOADS)]
    assert clock.done[-3 * LOADS - 2 :] == ["read", "read"] + ["load", "read", "read"] * LOADS
    assert clock.done[:5] == ["read"] * 4 + ["frozen"]
    assert found["cpu_s"] == clock.now, "loading again is this process's own work"


def test_who_cannot_load_again_or_is_too_large_for_it_is_timed_once(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Reloading(clock, monkeypatch)
    engine.able = False
    assert "load_times" not in run(engine, "load")
    engine.able = True
    large = SimpleNamespace(numel=lambda: 1 << 29, element_size=lambda: 4)
    engine.model = SimpleNamespace(parameters=lambda: [large])
    assert "load_times" not in run(engine, "load")
    assert "load_times" not in run(Reloading(clock, monkeypatch), "memory")


def test_an_unknown_section_is_named(clock: Clock) -> None:
    with pytest.raises(BadInput, match=r"sections .'speed'.: a launch knows decode"):
        run(Engine(clock), "speed")


def test_the_first_step_after_a_pause_is_no_sample(clock: Clock) -> None:
    turns = Alternation(lambda: None, lambda: None, lambda: None, steps=True)
    for act in (turns, turns, turns.skip, turns, turns):
        act()
    assert len(turns.samples) == 2


def test_the_frozen_step_computes_the_same_every_time() -> None:
    made = Frozen(128, 2, dtype=torch.bfloat16, device=torch.device("cpu"))
    decode, prefill = made.decode(3, 16), made.prefill(1, 20)
    assert decode() == decode()
    assert prefill() == prefill()
    assert np.isfinite([decode(), prefill()]).all()
    assert decode() != Frozen(128, 3, dtype=torch.bfloat16, device=torch.device("cpu")).decode(3, 16)()


def test_the_frozen_step_is_computed_in_its_dtype_over_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    products: list[torch.dtype] = []
    plain = torch.nn.functional.linear

    def seen(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        products.append(weight.dtype)
        return plain(x, weight)

    monkeypatch.setattr(frozen, "linear", seen)
    both = (torch.float32, torch.bfloat16)
    wide, narrow = (Frozen(128, 2, dtype=dtype, device=torch.device("cpu")) for dtype in both)
    assert wide.layers[1]["down"].equal(narrow.layers[1]["down"].float())
    apart = wide.decode(1, 4)() - narrow.decode(1, 4)()
    assert products == [torch.float32] * 14 + [torch.bfloat16] * 14
    assert 0 < abs(apart) < 0.05


@pytest.mark.parametrize(("dtype", "frozen_in"), [("fp32", "fp32"), ("bf16", "bf16"), ("int8-weight", "bf16")])
def test_only_beside_fp32_is_the_frozen_step_fp32(dtype: str, frozen_in: str) -> None:
    shape = frozen_shape(31_000_000, dtype)
    assert shape.dtype == frozen_in
    assert (shape.hidden, shape.layers) == (512, 5)


def test_the_frozen_weights_are_exact_in_bf16_and_known() -> None:
    weight = Frozen(128, 1, dtype=torch.bfloat16, device=torch.device("cpu")).layers[0]["q"].float()
    scale = weight.abs().min()
    assert ((weight / scale) % 2 == 1).logical_or((weight / scale) % 2 == -1).all()
    first = [2 * byte - 255 for byte in hashlib.shake_128(b"genqual/frozen/0.q").digest(4)]
    assert weight[0, :4].div(scale).tolist() == first


def test_a_model_without_parameters_is_where_it_was_asked_to_be() -> None:
    """OpenVINO's compiled model has none: it is the processor's."""
    bare: Any = SimpleNamespace(model=object(), request=SimpleNamespace(device="cpu"))
    assert str(rank_launch._device(bare)) == "cpu"
    assert str(roofline._device(bare)) == "cpu"
