"""QUANT_CONFIG: what is called, in which order, and what is refused. Intel's packages are played by modules of ours."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from genqual.engines.habana.fp8 import Fp8
from genqual.errors import BadInput, Unsupported


class Config:
    """As much of Intel's FP8Config as is asked of it."""

    def __init__(self, mode: str) -> None:
        self.measure, self.quantize = mode == "MEASURE", mode == "QUANTIZE"

    @classmethod
    def from_json_file(cls, filename: str) -> Config:
        return cls(json.loads(Path(filename).read_text())["mode"])


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every call of the two packages, by name."""
    made: list[str] = []

    def noting(name: str) -> Any:
        def call(model: Any = None, *rest: Any, **options: Any) -> Any:
            made.append(name)
            return model

        return call

    names = ("prepare", "convert", "finalize_calibration")
    packages: dict[str, Any] = {
        "neural_compressor.torch.quantization": {"FP8Config": Config} | {name: noting(name) for name in names},
        "habana_frameworks.torch.core": {name: noting(name) for name in ("hpu_set_env", "hpu_initialize")},
    }
    for package, contents in packages.items():
        for parent in (package.rsplit(".", 2)[0], package.rsplit(".", 1)[0]):
            monkeypatch.setitem(sys.modules, parent, ModuleType(parent))
        monkeypatch.setitem(sys.modules, package, SimpleNamespace(**contents))
    return made


def config(path: Path, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file = path / "quant.json"
    file.write_text(json.dumps({"mode": mode}))
    monkeypatch.setenv("QUANT_CONFIG", str(file))


def run(fp8: Fp8) -> None:
    """What the engine does: load, then two generates."""
    model = fp8.applied("model")
    fp8.started(model)
    fp8.kept(model)
    fp8.kept(model)


@pytest.mark.parametrize(
    ("mode", "dtype", "expected"),
    [
        (
            "MEASURE",
            "bf16",
            ["hpu_set_env", "prepare", "hpu_initialize", "finalize_calibration", "finalize_calibration"],
        ),
        ("QUANTIZE", "fp8", ["hpu_set_env", "convert", "hpu_initialize"]),
    ],
)
def test_the_vendors_order_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: list[str], mode: str, dtype: str, expected: list[str]
) -> None:
    config(tmp_path, mode, monkeypatch)
    run(Fp8(dtype))
    assert calls == expected


def test_without_a_config_nothing_is_called(monkeypatch: pytest.MonkeyPatch, calls: list[str]) -> None:
    monkeypatch.delenv("QUANT_CONFIG", raising=False)
    fp8 = Fp8("bf16")
    run(fp8)
    assert (calls, fp8.step) == ([], None)


@pytest.mark.parametrize(
    ("mode", "dtype", "says"),
    [
        ("QUANTIZE", "bf16", "would quantise: that is declared as fp8"),  # fp8's speed under bf16's name
        ("MEASURE", "fp8", "would measure: that is declared as bf16"),
        ("SHAPE", "bf16", "neither MEASURE nor QUANTIZE"),
    ],
)
def test_a_dtype_that_is_not_what_computes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: list[str], mode: str, dtype: str, says: str
) -> None:
    config(tmp_path, mode, monkeypatch)
    with pytest.raises(BadInput, match=says):
        Fp8(dtype)
    assert calls == []


def test_fp8_without_a_config_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QUANT_CONFIG", raising=False)
    with pytest.raises(BadInput, match="set QUANT_CONFIG"):
        Fp8("fp8")


def test_without_intels_package_it_is_unsupported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config(tmp_path, "MEASURE", monkeypatch)
    monkeypatch.setitem(sys.modules, "neural_compressor", None)
    with pytest.raises(Unsupported, match="Intel Neural Compressor is not here"):
        Fp8("bf16")
