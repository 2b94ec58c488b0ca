"""bitsandbytes (quant_method "bitsandbytes"): 4-bit words of a table, each block of a flattened weight with a scale.

Beside `X.weight`, bytes of two words each, the first in the upper half: `absmax`, the scale of each block;
`quant_map`, the 16 numbers that words stand for (NF4 or FP4); `quant_state.bitsandbytes__nf4`, JSON as bytes, with the
weight's shape and the blocks' size. Scales that are quantised once more are words of 8 bits of `nested_quant_map`, in
blocks with scales `nested_absmax`, around `nested_offset`. A weight is table[word] * scale. Source: what bitsandbytes
0.50 writes and reads. Its 8-bit checkpoints round activations by a threshold of their own and are refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from genqual.cases import Json
from genqual.errors import BadInput
from genqual.models.quantised.base import AT_RUN_TIME, F32, Arrays, Packed, Section, Tensor, fits

METHOD: Final = "bitsandbytes"
_STATE: Final = ".quant_state.bitsandbytes__"
_HARMLESS: Final = (
    *("bnb_4bit_compute_dtype", "bnb_4bit_quant_type", "bnb_4bit_use_double_quant", "_load_in_4bit", "_load_in_8bit"),
    *("llm_int8_enable_fp32_cpu_offload", "llm_int8_has_fp16_weight", "llm_int8_skip_modules", "llm_int8_threshold"),
)


@dataclass(frozen=True, slots=True)
class _State:
    """What the JSON of one weight says: its shape, the words of a block, and of a block of its scales (0: plain)."""

    shape: tuple[int, int]
    block: int
    nested: int
    offset: float


@dataclass(frozen=True, slots=True)
class Bnb:
    """`states`: the bytes of each weight's JSON by stored name, without which nothing tells its shape."""

    states: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def wants(self, name: str) -> bool:
        """Whether the content of the stored tensor `name` is needed before `find`."""
        return _STATE in name

    def having(self, content: Arrays) -> Bnb:
        """The same, with the JSON of each weight."""
        return replace(self, states=content)

    def find(self, stored: Mapping[str, Tensor]) -> list[Packed]:
        """Every weight with a state, and what lies beside it."""
        found = []
        for name in filter(self.wants, stored):
            weight = name.partition(_STATE)[0]
            state = _state(name, self.states[name]) if name in self.states else None
            if state is None:
                raise BadInput(f"{name} was not read: the shape of {weight} is not known")
            names = {"absmax": "absmax", "map": "quant_map"}
            names |= {"nested_absmax": "nested_absmax", "nested_map": "nested_quant_map"} if state.nested else {}
            pieces = {"words": weight, "state": name} | {what: f"{weight}.{last}" for what, last in names.items()}
            if lacking := [piece for piece in pieces.values() if piece not in stored]:
                raise BadInput(f"{name} without {lacking[0]} beside it: not a whole weight; download it again")
            if stored[weight].dtype != "U8":
                raise BadInput(
                    f"{weight} is stored as {stored[weight].dtype}: genqual reads words in bytes "
                    "(bnb_4bit_quant_storage uint8) only; save it anew with that"
                )
            size = math.prod(state.shape)
            blocks = -(-size // state.block)
            fits(weight, (math.prod(stored[weight].shape),), (-(-size // 2),))
            fits(pieces["absmax"], stored[pieces["absmax"]].shape, (blocks,))
            fits(pieces["map"], stored[pieces["map"]].shape, (16,))
            if state.nested:
                fits(pieces["nested_absmax"], stored[pieces["nested_absmax"]].shape, (-(-blocks // state.nested),))
                fits(pieces["nested_map"], stored[pieces["nested_map"]].shape, (256,))
            found.append(Packed(weight, pieces, state.shape, state))
        return found

    def dequantise(self, packed: Packed, pieces: Arrays) -> F32:
        """table[word] * scale of its block."""
        state: _State = packed.how
        scales = pieces["absmax"]
        if state.nested:
            around = np.repeat(pieces["nested_absmax"], state.nested)[: scales.size]
            scales = pieces["nested_map"][scales] * around + np.float32(state.offset)
        words = pieces["words"].reshape(-1)
        size = math.prod(packed.shape)
        flat = np.stack([words >> 4, words & 15], axis=-1).reshape(-1)[:size]
        values: F32 = pieces["map"][flat] * np.repeat(scales.astype(np.float32), state.block)[:size]
        return values.reshape(packed.shape)


def _state(name: str, stored: NDArray[Any]) -> _State:
    try:
        said = json.loads(bytes(stored.astype(np.uint8)))
        rows, columns = (int(size) for size in said["shape"])
        nested = int(said["nested_blocksize"]) if "nested_offset" in said else 0
        state = _State((rows, columns), int(said["blocksize"]), nested, float(said.get("nested_offset", 0.0)))
        if min(rows, columns, state.block) < 1 or nested < 0:
            raise ValueError(f"sizes {said}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{name} cannot be read ({error}); download it again") from error
    return state


def scheme(section: Mapping[str, Json]) -> Bnb:
    """What the section says. Raises BadInput on 8 bits, and on words that are stored as another dtype."""
    fields = Section(section, harmless=_HARMLESS)
    if fields.flag("load_in_8bit"):
        raise BadInput(f"config {fields.where}.load_in_8bit: {AT_RUN_TIME}")
    if not fields.flag("load_in_4bit"):
        raise BadInput(f"config {fields.where}: neither load_in_4bit nor load_in_8bit is true; mend config.json")
    fields.choice("bnb_4bit_quant_storage", ("uint8",), "uint8")
    fields.finish()
    return Bnb()
