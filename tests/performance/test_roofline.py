"""The probe, in a process of its own as in a rank: its arithmetic on a made-up clock, its numbers against NumPy's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from genqual.metrics.utilisation import Roofline

MIB = 1 << 20


def rank(program: str) -> Any:
    """What `program` prints, as JSON; it runs where torch may be imported, on one thread."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


COUNTED = """
import itertools, json, torch
from genqual.errors import BadInput
from genqual.metrics import roofline
ticks = itertools.count()
roofline.time.perf_counter = lambda: next(ticks) * 0.001  # every interval lasts 1 ms, so two calls are timed at once
roofline._READ_SIZES, roofline._LARGEST, roofline._GEMM_SIZES_CPU = (1 << 20, 4 << 20), 4 << 20, (64, 128)
torch.manual_seed(1)
state, threads = torch.get_rng_state(), torch.get_num_threads()
answer = roofline.probe(dtype="fp32", threads=1, seconds=1.0)
answer["left_alone"] = bool(torch.equal(state, torch.get_rng_state())) and threads == torch.get_num_threads()
answer["refused"] = []
for wrong in ({"dtype": "int4"}, {"threads": 0}, {"seconds": 0.0}, {"seconds": float("nan")}):
    try:
        roofline.probe(**({"dtype": "fp32", "threads": 1, "seconds": 0.1} | wrong))
    except BadInput as error:
        answer["refused"].append(str(error))
print(json.dumps(answer, allow_nan=False))
"""


@pytest.fixture(scope="module")
def answer() -> dict[str, Any]:
    found: dict[str, Any] = rank(COUNTED)
    return found


def test_what_cannot_be_probed_is_refused(answer: dict[str, Any]) -> None:
    said = answer["refused"]
    assert len(said) == 4
    assert "int4" in said[0]
    assert "threads 0" in said[1]


def test_rates_are_work_over_time(answer: dict[str, Any]) -> None:
    assert [(one["bytes"], one["bytes_per_s"]) for one in answer["read"]] == [
        (size * MIB, pytest.approx(size * MIB / 0.0005)) for size in (1, 4)
    ]
    assert [(one["n"], one["flop_per_s"]) for one in answer["gemm"]] == [
        (n, pytest.approx(2 * n**3 / 0.0005)) for n in (64, 128)
    ]
    assert answer["best_gemm"] == 1
    assert answer["left_alone"]
    found = Roofline.from_json(answer)
    assert found.flop_per_s == pytest.approx(2 * 128**3 / 0.0005)
    assert found.gemm_about.startswith("GEMM ")
    assert "float32 128 x 128 x 128 on cpu, 1 thread" in found.gemm_about


FALLBACK = """
import json, torch
from genqual.metrics import roofline
roofline._READ_SIZES, roofline._LARGEST, roofline._GEMM_SIZES_CPU = (1 << 20,), 1 << 20, (64, 128)
asked, plain = [], torch.mm
def mm(a, b, out):
    asked.append((a.shape[0], b.is_contiguous()))
    for _ in range(1 if not b.is_contiguous() else 20):
        plain(a, b, out=out)
torch.mm = mm
answer = roofline.probe(dtype="fp32", threads=1, seconds=0.2)
print(json.dumps({"gemm": answer["gemm"], "asked": sorted(set(asked))}))
"""


def test_the_layout_of_a_layer_is_tried_and_the_slower_one_left_off() -> None:
    """As bf16 without kernels of its own: 0.6 to 1.3 GFLOP/s one way round, 8 the other (Zen 3)."""
    found = rank(FALLBACK)
    assert [one["kernel"].split(" float32")[0] for one in found["gemm"]] == [
        "GEMM of weights as a layer keeps them,"
    ] * 2
    assert found["asked"] == [[64, False], [64, True], [128, False]]


# Both are the best of several, alternated in one process, so that a busy host slows both.
COMPARED = """
import json, time
import numpy as np
from genqual.metrics import roofline
roofline._READ_SIZES, roofline._LARGEST, roofline._GEMM_SIZES_CPU = (16 << 20,), 16 << 20, (512,)
numbers, matrix = np.ones(4 << 20, dtype=np.float32), np.ones((512, 512), dtype=np.float32)
read, gemm, ours = [], [], []
for _ in range(4):
    for _ in range(5):
        start = time.perf_counter(); np.dot(numbers, numbers); read.append(time.perf_counter() - start)
        start = time.perf_counter(); matrix @ matrix; gemm.append(time.perf_counter() - start)
    ours.append(roofline.probe(dtype="fp32", threads=1, seconds=0.1))
print(json.dumps({
    "read": max(one["read"][-1]["bytes_per_s"] for one in ours) / (numbers.nbytes / min(read)),
    "gemm": max(one["gemm"][-1]["flop_per_s"] for one in ours) / (2 * 512**3 / min(gemm)),
}))
"""


def test_rates_are_those_that_numpy_reaches() -> None:
    ratio = rank(COMPARED)
    # Wide enough for other kernels on a busy host, too narrow for a lost factor of eight (bits, KiB, an element size).
    assert 0.2 < ratio["read"] < 5
    assert 0.2 < ratio["gemm"] < 5
