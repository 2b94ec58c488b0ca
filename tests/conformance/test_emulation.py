"""What an emulation of a precision reads, and which tolerances it refuses. NumPy; the peer for rounding is torch."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, Final

import numpy as np
import pytest

from genqual.conformance import rounding
from genqual.conformance.emulation import emulated_nrms, emulation
from genqual.conformance.oracle.registry import oracle_for
from genqual.conformance.references import file
from genqual.conformance.references.make import make
from genqual.conformance.tolerance import check_size
from genqual.errors import BadInput
from genqual.models import weights
from genqual.models.registry import resolve
from genqual.paths import data_dir
from tests.conformance.oracle.small import SMALL, parameters

PEER: Final = """
import json, sys, torch
x = torch.tensor(json.loads(sys.argv[1]), dtype=torch.float64)
rows = x.to(torch.float32)
scale = rows.abs().amax(-1, keepdim=True) / 448
print(json.dumps({
    "bf16": x.to(torch.float32).to(torch.bfloat16).double().tolist(),
    "fp16": x.to(torch.float16).double().tolist(),
    "e4m3": ((rows / scale).to(torch.float8_e4m3fn).float() * scale).double().tolist(),
}))
"""


def test_numbers_are_rounded_as_torch_rounds_them() -> None:
    x = np.random.default_rng(1).standard_normal((6, 40)) * np.logspace(-6, 4, 6)[:, None]
    x[0, :3] = [1 + 2.0**-8, 1 + 3 * 2.0**-8, -(1 + 2.0**-8)]  # ties
    done = subprocess.run(
        [sys.executable, "-c", PEER, json.dumps(x.tolist())], capture_output=True, text=True, timeout=120, check=True
    )
    want = json.loads(done.stdout)
    np.testing.assert_array_equal(rounding.bf16(x.astype(np.float32).astype(np.float64)), want["bf16"])
    np.testing.assert_array_equal(rounding.fp16(x), want["fp16"])
    np.testing.assert_allclose(rounding.e4m3_rows(x), want["e4m3"], rtol=1e-6)


def test_int8_has_255_even_steps_a_row() -> None:
    x = np.random.default_rng(2).standard_normal((5, 300))
    steps = rounding.int8_rows(x) * 127 / np.abs(x).max(axis=-1, keepdims=True)
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-9)
    assert np.abs(steps).max() == pytest.approx(127)
    assert np.abs(rounding.int8_rows(x) - x).max() <= np.abs(x).max() / 254 + 1e-12


@pytest.mark.parametrize("model", ["llama-tiny", "bloom-tiny"])
def test_right_runs_of_transformers_read_what_the_emulation_reads(model: str) -> None:
    """The committed envelopes are of real runs: an independent computation of the same number."""
    reference, spec = file.read(data_dir("baselines") / "references" / model), resolve(model)
    config, state = weights.config(spec), weights.read(spec)
    for precision in sorted({"bf16", "fp16", "fp8", "int8-weight", "int8-dynamic"} & set(reference.envelopes)):
        emulated = emulated_nrms(config, state, reference, precision)
        assert emulated is not None
        assert 0.8 < reference.envelopes[precision].nrms / emulated < 1.35, precision


@pytest.mark.parametrize("name", SMALL)
def test_every_architecture_is_emulated(name: str) -> None:
    """Each part rounds: bf16 is eight times as far as fp16, and without rounding nothing is far."""
    config, state = SMALL[name], parameters(SMALL[name])
    ids = [5, 9, 2, 40, 33, 7, 11, 60, 21, 3]
    exact = oracle_for(config, state).logits(ids)

    def error(precision: str) -> float:
        off = emulation(config, state, precision).logits(ids) - exact
        each = np.sqrt((off**2).mean(axis=-1))  # of a token: one that took another expert is far off, and right
        return float(np.median(each) / exact.std())

    wide, fine = error("bf16"), error("fp16")
    assert 1e-3 < wide < 0.3
    assert 3 < wide / fine < 25
    assert error("int8-weight") > 0.5 * wide


def test_it_rounds_the_parts_of_the_declaration_and_leaves_the_oracle_as_it_was() -> None:
    config, state = SMALL["gpt_oss"], parameters(SMALL["gpt_oss"])
    before = oracle_for(config, state).logits([3, 4, 5])
    made = emulation(config, state, "bf16")
    rounded = made.logits([3, 4, 5])
    assert np.array_equal(rounding.bf16(rounded), rounded)
    assert np.array_equal(oracle_for(config, state).logits([3, 4, 5]), before)


def test_a_tolerance_of_runs_that_are_wrong_together_is_refused_with_both_numbers() -> None:
    """K17: rotary positions divided by four in every run; the emulation is of the model as it is declared."""
    config: dict[str, Any] = {**SMALL["llama"]}
    state = parameters(config)
    made = make("small", "f" * 64, oracle_for(config, state), [[3, 9, 17, 5], [11, 2, 44]], 6)
    emulated = emulated_nrms(config, state, made, "bf16")
    assert emulated is not None
    assert "is allowed" in check_size("bf16", 1.3 * emulated, emulated)
    with pytest.raises(BadInput, match=rf"0\.88, 450\.6 roundings .* reads {emulated:.3g}".replace("+", r"\+")):
        check_size("bf16", 0.88, emulated)
    with pytest.raises(BadInput, match=r"at most 32 roundings \(0\.0625\)"):
        check_size("bf16", 34 / 512, None)
    assert "32 roundings" in check_size("bf16", 31 / 512, None)
    # A sharp model's right runs read 34 roundings, and so does its emulation: that decides.
    assert "is allowed" in check_size("bf16", 34 / 512, 30 / 512)
    with pytest.raises(BadInput, match="no emulation"):
        check_size("int8-weight", float("nan"), None)
