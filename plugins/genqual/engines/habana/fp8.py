"""fp8 on a Gaudi, as its vendor does it: QUANT_CONFIG names a file that measures, or one that quantises. Ranks only.

Measure (dtype bf16), postprocess where the cards differ in number, quantise (dtype fp8). The order of the calls is that
of the vendor's own run_generation.py.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any, Final

from genqual.errors import BadInput, Unsupported

VARIABLE: Final = "QUANT_CONFIG"
SCHEME: Final = "fp8"


class Fp8:
    """What QUANT_CONFIG asks of one model; nothing without it. `step` is measure, quantise or None."""

    def __init__(self, dtype: str) -> None:
        """Raises BadInput where `dtype` and the file do not belong together: a record must say what computed."""
        self.file = os.environ.get(VARIABLE) or None
        self.step: str | None = None
        if self.file is None:
            if dtype == SCHEME:
                raise BadInput(f"dtype fp8: set {VARIABLE} to a file that quantises by what was measured (docs/hpu.md)")
            return
        self._inc = _library()
        self._config = self._inc.FP8Config.from_json_file(self.file)
        self.step = "measure" if self._config.measure else "quantise" if self._config.quantize else None
        wanted = {"measure": "bf16", "quantise": SCHEME}.get(self.step or "")
        if wanted is None:
            raise BadInput(f"{VARIABLE}={self.file}: its mode is neither MEASURE nor QUANTIZE")
        if dtype != wanted:
            raise BadInput(
                f"dtype {dtype}, and {VARIABLE}={Path(self.file).name} would {self.step}: that is declared as {wanted}"
            )
        importlib.import_module("habana_frameworks.torch.core").hpu_set_env()

    def applied(self, model: Any) -> Any:
        """`model`, still on the host, with observers in it or with fp8 in place of what was measured."""
        if self.step == "measure":
            return self._inc.prepare(model, self._config)
        return self._inc.convert(model, self._config) if self.step == "quantise" else model

    def started(self, model: Any) -> None:
        """Tell the bridge that weights and scales are constants. After the model moved and its graph was wrapped."""
        if self.step is not None:
            core = importlib.import_module("habana_frameworks.torch.core")
            core.hpu_initialize(model, mark_only_scales_as_const=True)

    def kept(self, model: Any) -> None:
        """Write what was measured so far. After every generate, since a rank may be ended without a word."""
        if self.step == "measure":
            self._inc.finalize_calibration(model)


def _library() -> Any:
    try:
        return importlib.import_module("neural_compressor.torch.quantization")
    except ImportError as error:
        raise Unsupported(f"{VARIABLE} is set and Intel Neural Compressor is not here: {error}") from error
