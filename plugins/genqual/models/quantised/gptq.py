"""GPTQ (quant_method "gptq"): integers packed along the inputs, a scale and a zero point for each group of inputs.

`qweight` (inputs * bits / 32, outputs), `qzeros` (groups, outputs * bits / 32), `scales` (groups, outputs) and `g_idx`
(inputs,), the group of each input. A weight is scale * (integer - zero point). Source: the packing of AutoGPTQ. Its
first format stores a zero point less one, its second, `gptq_v2`, the zero point.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from genqual.cases import Json
from genqual.errors import BadInput
from genqual.models.quantised.base import F32, Arrays, Packed, Section, Tensor, fits, packed_modules
from genqual.models.quantised.numbers import bits_of, words_for

METHOD: Final = "gptq"
# How it was made, and which kernels its maker had in mind; none of it changes what is stored.
_HARMLESS: Final = (
    *(
        "desc_act",
        "static_groups",
        "sym",
        "true_sequential",
        "damp_percent",
        "model_name_or_path",
        "model_file_base_name",
    ),
    *("model_seqlen", "dataset", "tokenizer", "block_name_to_quantize", "module_name_preceding_first_block"),
    *("batch_size", "pad_token_id", "use_exllama", "max_input_length", "exllama_config", "cache_block_outputs"),
    *("modules_in_block_to_quantize", "use_cuda_fp16", "backend", "lm_head", "quantizer", "meta", "is_marlin_format"),
    *("version", "act_group_aware", "offload_to_disk", "damp_auto_increment", "mse", "adapter", "use_marlin"),
)


@dataclass(frozen=True, slots=True)
class Gptq:
    """`group`: inputs that share a scale, 0 for all; `added`: what is added to a stored zero point."""

    bits: int
    group: int
    added: int

    def find(self, stored: Mapping[str, Tensor]) -> list[Packed]:
        """Every `X.qweight`, with what lies beside it."""
        found = []
        for module, tensor, pieces in packed_modules(stored, "GPTQ"):
            inputs, outputs = tensor.shape[0] * 32 // self.bits, tensor.shape[1]
            groups = -(-inputs // (self.group or inputs))
            fits(pieces["scales"], stored[pieces["scales"]].shape, (groups, outputs))
            fits(pieces["qzeros"], stored[pieces["qzeros"]].shape, (groups, words_for(outputs, self.bits)))
            if f"{module}.g_idx" in stored:
                pieces["g_idx"] = f"{module}.g_idx"
                fits(pieces["g_idx"], stored[pieces["g_idx"]].shape, (inputs,))
            found.append(Packed(f"{module}.weight", pieces, (outputs, inputs)))
        return found

    def dequantise(self, packed: Packed, pieces: Arrays) -> F32:
        """scale * (integer - zero point) of each input's group."""
        outputs, inputs = packed.shape
        integers = bits_of(pieces["qweight"].T, self.bits, inputs)
        zeros = bits_of(pieces["qzeros"], self.bits, outputs) + self.added
        if (zeros >> self.bits).any():
            raise BadInput(
                f"{packed.pieces['qzeros']}: a zero point of {1 << self.bits} less one is stored as the zero point 0 "
                "would be: loaders disagree which it is, so what is right is not defined; store it as gptq_v2"
            )
        group = pieces["g_idx"] if "g_idx" in pieces else np.arange(inputs) // (self.group or inputs)
        if group.min() < 0 or group.max() >= len(zeros):
            raise BadInput(f"{packed.pieces['g_idx']}: groups {group.min()} to {group.max()}, of {len(zeros)} groups")
        scales = pieces["scales"].astype(np.float32, copy=False)
        values: F32 = (integers - zeros.T[:, group]).astype(np.float32) * scales.T[:, group]
        return values


def scheme(section: Mapping[str, Json]) -> Gptq:
    """What the section says. Raises BadInput on bits and storage formats that are not known."""
    fields = Section(section, harmless=_HARMLESS)
    bits, group = fields.integer("bits"), fields.integer("group_size", default=128)
    if bits not in (2, 3, 4, 8):
        raise BadInput(f"config {fields.where}.bits = {bits}: GPTQ packs 2, 3, 4 or 8 bits")
    if group != -1 and group < 1:
        raise BadInput(
            f"config {fields.where}.group_size = {group}: a positive integer, or -1 for all inputs, is wanted"
        )
    layout = fields.choice("checkpoint_format", ("gptq", "gptq_v2"), "gptq")
    fields.choice("format", ("gptq", "gptq_v2"), layout)
    fields.choice("pack_dtype", ("int32",), "int32")
    fields.unset("dynamic", "rules by module are not read; give a checkpoint with the same bits and groups throughout")
    fields.finish()
    return Gptq(bits, max(group, 0), 0 if layout == "gptq_v2" else 1)
