"""The checkpoints of this folder with one scale changed, or their config. NumPy and the safetensors package."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

CHECKPOINTS: Final = Path(__file__).with_name("checkpoints")
NAMES: Final = tuple(sorted(path.name for path in CHECKPOINTS.iterdir()))
_SCALES: Final = ("weight_scale_inv", "weight_scale", "scales", "gate_up_proj_scales", "absmax")
_WIDTHS: Final = {"F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E8M0": 1, "U8": 1}


def changed(
    name: str, target: Path, *, halved: bool = True, config: Callable[[dict[str, Any]], object] | None = None
) -> Path:
    """A copy of the checkpoint `name`: the first scale of one weight is half of what it was, if `halved`.

    The exponent is lowered in the bytes of the file, so that no reader or writer of ours is between.
    """
    shutil.copytree(CHECKPOINTS / name, target)
    described = json.loads((target / "config.json").read_text())
    if config is not None:
        config(described)
        (target / "config.json").write_text(json.dumps(described))
    raw = bytearray((target / "model.safetensors").read_bytes())
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    found = (entry for tensor, entry in sorted(header.items()) if tensor.endswith(_SCALES))
    words = {"U8"} if name.startswith("bnb") else set()  # scales that are quantised once more have scales of their own
    scale = next(entry for entry in found if entry["dtype"] not in words)
    start, width = 8 + length + scale["data_offsets"][0], _WIDTHS[scale["dtype"]]
    mantissa = {"F32": 23, "F16": 10, "BF16": 7, "F8_E4M3": 3, "F8_E8M0": 0, "U8": 0}[scale["dtype"]]
    bits = int.from_bytes(raw[start : start + width], "little")
    bits -= int(halved) << mantissa
    raw[start : start + width] = bits.to_bytes(width, "little")
    (target / "model.safetensors").write_bytes(raw)
    return target
