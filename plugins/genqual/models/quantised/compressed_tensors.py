"""compressed-tensors (quant_method "compressed-tensors"): a scheme for each group of modules, in several formats.

`X.weight` of integers or 8-bit floats, or `X.weight_packed`, with `X.weight_scale`, maybe `X.weight_zero_point` and
`X.weight_global_scale`. A weight is scale * (integer - zero point). `input_activations` says how what enters these
modules is rounded at run time; a static scale is `X.input_scale`. Source: the documentation of compressed-tensors and
its packing: integers with 2^(bits-1) added, without gaps along the inputs; zero points along the outputs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from genqual.cases import Json
from genqual.errors import BadInput
from genqual.models.narrow_floats import fp4
from genqual.models.quantised.base import (
    AT_RUN_TIME,
    F32,
    INPUT_SCALE,
    SECTION,
    Arrays,
    Packed,
    Section,
    Shape,
    Tensor,
    fits,
    no_zero_points,
)
from genqual.models.quantised.inputs import InputRounding
from genqual.models.quantised.mxfp4 import power_of_two
from genqual.models.quantised.numbers import I32, bits_of, grid, spread, words_for
from genqual.models.quantised.nvfp4 import scaled

METHOD: Final = "compressed-tensors"
PLAIN: Final = ("naive-quantized", "int-quantized", "float-quantized", "mxfp8-quantized")
PACKED: Final = "pack-quantized"
FOUR_BIT_FLOATS: Final = ("nvfp4-pack-quantized", "mxfp4-pack-quantized")
_FORMATS: Final = (*PLAIN, PACKED, *FOUR_BIT_FLOATS)
_STRATEGIES: Final = ("tensor", "channel", "group", "block", "tensor_group")
_HARMLESS: Final = (
    "version",
    "global_compression_ratio",
    "quantization_status",
    "ignore",
    "run_compressed",
    "dequantize",
)
_QUANTISED: Final = ("I8", "F8_E4M3")
_EMBEDDINGS: Final = ("embed_tokens", "embed_in", "embed_positions", "word_embeddings", "wte", "wpe")


@dataclass(frozen=True, slots=True)
class Group:
    """The scheme of the modules that `targets` name: how wide, by what rule scales are shared, in which format."""

    targets: tuple[str, ...]
    layout: str
    bits: int
    floats: bool
    symmetric: bool
    strategy: str
    size: int
    block: tuple[int, int]
    inputs: InputRounding | None = None

    def match(self, module: str) -> int:
        """How well `module` is named: 4 in full, 3 by an expression, 2 by its class, 1 by another class, 0 not at all.

        Which module is of which class is not stored. Packed ones are Linear, but for embeddings, which names tell.
        """
        best, kind = 0, "Embedding" if module.rpartition(".")[2] in _EMBEDDINGS else "Linear"
        for target in self.targets:
            if target == module:
                return 4
            if target.startswith("re:"):
                best = max(best, 3 if re.match(target[3:], module) else 0)
            elif target == kind:
                best = max(best, 2)
            elif target[:1].isupper() and "." not in target:  # not "lm_head", which is the full name of one module
                best = max(best, 1)
        return best

    def shared(self, weight: Shape) -> tuple[int, int]:
        """What one scale of a weight is of: (rows, columns)."""
        rows, columns = weight[-2:]
        return {
            "tensor": (rows, columns),
            "channel": (1, columns),
            "block": self.block,
        }.get(self.strategy, (1, self.size))


@dataclass(frozen=True, slots=True)
class CompressedTensors:
    """The groups of one checkpoint."""

    groups: tuple[Group, ...]

    def find(self, stored: Mapping[str, Tensor]) -> list[Packed]:
        """Weights with a scale beside them, each by its module's group."""
        found = []
        for name, tensor in stored.items():
            module, _, last = name.rpartition(".")
            if last == "weight_packed" or (last == "weight" and tensor.dtype in _QUANTISED):
                found.append(self._packed(module, last, stored))
        return found

    def rounded_to(self, stored: Mapping[str, Tensor]) -> tuple[str, str] | None:
        """The first scale that is stored in 16 bits, and its dtype, to which the package rounds what it widens."""
        for one in self.find(stored):
            scale = one.pieces["scale"]
            if stored[scale].dtype in ("BF16", "F16"):
                return scale, stored[scale].dtype
        return None

    def _packed(self, module: str, last: str, stored: Mapping[str, Tensor]) -> Packed:
        group = self._group(module)
        pieces = {"weight": f"{module}.{last}"}
        for part in ("scale", "zero_point", "global_scale", "shape", "g_idx"):
            if f"{module}.weight_{part}" in stored:
                pieces[part] = f"{module}.weight_{part}"
        if "scale" not in pieces or (last == "weight_packed") != (group.layout not in PLAIN):
            raise BadInput(
                f"{pieces['weight']}: its group is stored as {group.layout}, which wants "
                f"{module}.{'weight' if group.layout in PLAIN else 'weight_packed'} and {module}.weight_scale"
            )
        if not group.symmetric and "zero_point" not in pieces:
            raise BadInput(
                f"{module}.weight_zero_point is not there, and its group is not symmetric; download it again"
            )
        static = group.inputs is not None and group.inputs.static
        if f"{module}.input_scale" in stored:
            pieces[INPUT_SCALE] = f"{module}.input_scale"
            if f"{module}.input_zero_point" in stored:
                pieces["input_zero_point"] = f"{module}.input_zero_point"
        elif static:
            raise BadInput(f"{module}.input_scale is not there, and its group's input_activations are static")
        shape = self._shape(group, pieces, stored)
        if "g_idx" not in pieces:
            self._check_scale(pieces["scale"], stored[pieces["scale"]].shape, shape, group)
        return Packed(f"{module}.weight", pieces, shape, group, group.inputs)

    def _group(self, module: str) -> Group:
        most = max((group.match(module) for group in self.groups), default=0)
        if not most:
            raise BadInput(f"{module} is stored quantised, and no target of {SECTION}.config_groups names it")
        best, *others = [group for group in self.groups if group.match(module) == most]
        if other := next((one for one in others if replace(one, targets=best.targets) != best), None):
            raise BadInput(
                f"{module} is named by two of {SECTION}.config_groups with different schemes (targets "
                f"{', '.join(best.targets)} and {', '.join(other.targets)}): which one counts is not defined; mend "
                "the targets, so that one of them names it"
            )
        return best

    def _shape(self, group: Group, pieces: Mapping[str, str], stored: Mapping[str, Tensor]) -> Shape:
        *outer, width = stored[pieces["weight"]].shape
        if group.layout in PLAIN:
            return (*outer, width)
        if group.layout in FOUR_BIT_FLOATS:
            return (*outer, 2 * width)
        scales = stored[pieces["scale"]].shape[-1]
        columns = (
            scales * group.size if group.strategy == "group" and "g_idx" not in pieces else width * 32 // group.bits
        )
        fits(pieces["weight"], (width,), (words_for(columns, group.bits),))
        return (*outer, columns)

    def _check_scale(self, name: str, found: Shape, weight: Shape, group: Group) -> None:
        wanted = grid(weight, group.shared(weight))
        if found != wanted and not (np.prod(found) == 1 and np.prod(wanted) == 1) and found != wanted[:-1]:
            raise BadInput(
                f"{name} has shape {found}; its weight {weight} and its group ({group.strategy}) want {wanted}"
            )

    def dequantise(self, packed: Packed, pieces: Arrays) -> F32:
        """scale * (integer - zero point), or scale * float."""
        group: Group = packed.how
        if "shape" in pieces and tuple(int(size) for size in pieces["shape"]) != packed.shape:
            raise BadInput(f"{packed.pieces['shape']} says {pieces['shape'].tolist()}, the scales give {packed.shape}")
        if group.layout == "nvfp4-pack-quantized":
            if "global_scale" not in pieces:
                raise BadInput(f"{packed.name} has no weight_global_scale beside it; download it again")
            scale = pieces["scale"].astype(np.float32) / pieces["global_scale"].astype(np.float32).reshape(())
            return scaled(pieces["weight"], scale, packed.shape, group.size)
        if group.layout in ("mxfp4-pack-quantized", "mxfp8-quantized"):
            scale = power_of_two(pieces["scale"], packed.pieces["scale"])
            narrow = fp4(pieces["weight"]) if group.bits == 4 else pieces["weight"]
            return np.asarray(narrow * spread(scale, packed.shape, (1, group.size)), dtype=np.float32)
        return _integers(packed, group, pieces)


def _integers(packed: Packed, group: Group, pieces: Arrays) -> F32:
    """Integers, or 8-bit floats, less their zero points, times their scales."""
    over = group.shared(packed.shape)
    scale = pieces["scale"].astype(np.float32, copy=False)
    scale = scale[..., None] if scale.ndim == 1 and scale.size > 1 else scale
    if group.layout == PACKED:
        values = _unpacked(pieces["weight"], group.bits, packed.shape[-1]).astype(np.float32)
    else:
        values = pieces["weight"].astype(np.float32)
    zeros = pieces.get("zero_point")
    if zeros is not None and group.layout == PACKED and zeros.dtype == np.int32:
        zeros = _unpacked(zeros.swapaxes(-1, -2), group.bits, packed.shape[-2]).swapaxes(-1, -2)
    if zeros is not None and group.symmetric:
        no_zero_points(packed.pieces["zero_point"], zeros)
        zeros = None
    if zeros is not None:
        zeros = zeros.reshape(scale.shape).astype(np.float32)
    if "g_idx" in pieces and (pieces["g_idx"] >= 0).all():
        columns = pieces["g_idx"]
        zeros = None if zeros is None else zeros[..., columns]
        scale = scale[..., columns]
    elif scale.size > 1:
        zeros = None if zeros is None else spread(zeros, packed.shape, over)
        scale = spread(scale, packed.shape, over)
    else:
        scale, zeros = scale.reshape(()), None if zeros is None else zeros.reshape(())
    if zeros is not None:
        values -= zeros
    return np.asarray(values * scale, dtype=np.float32)


def _unpacked(words: NDArray[np.int32], bits: int, count: int) -> I32:
    """Signed integers (..., count) out of words that hold them with 2^(bits-1) added."""
    return bits_of(words, bits, count) - (1 << (bits - 1))


def scheme(section: Mapping[str, Json]) -> CompressedTensors:
    """What the section says. Raises BadInput on quantised activations or cache, sparsity, rotations, unknown fields."""
    fields = Section(section, harmless=_HARMLESS)
    fields.unset("kv_cache_scheme", "a quantised cache is not computed by the oracle; " + AT_RUN_TIME)
    fields.unset("transform_config", "rotations at run time are not computed by the oracle; " + AT_RUN_TIME)
    sparsity = fields.within(
        "sparsity_config", harmless=("ignore", "targets", "global_sparsity", "registry_requires_subclass")
    )
    if sparsity is not None:
        sparsity.choice("format", ("dense",), "dense")
    whole = fields.choice("format", (*_FORMATS, "mixed-precision"), PACKED)
    listed = fields.within("config_groups")
    if listed is None or not listed.data:
        raise BadInput(f"config {fields.where} has no config_groups; give the model's whole config.json")
    groups = tuple(_group(listed, name, whole) for name in listed.data)
    fields.finish()
    return CompressedTensors(groups)


def _group(listed: Section, name: str, whole: str) -> Group:
    fields = listed.within(name)
    if fields is None:
        raise BadInput(f"config {listed.where}.{name} is empty; give the model's whole config.json")
    fields.unset("output_activations", AT_RUN_TIME)
    inputs = _inputs(fields)
    layout = fields.choice("format", _FORMATS, whole)
    targets = tuple(fields.names("targets"))
    weights = fields.within(
        "weights", ("dynamic", "observer", "observer_kwargs", "actorder", "scale_dtype", "zp_dtype")
    )
    fields.finish()
    if weights is None:
        raise BadInput(f"config {fields.where}.weights is not set: nothing says how its weights are stored")
    bits, size = weights.integer("num_bits", default=8), weights.integer("group_size", default=0)
    floats = weights.choice("type", ("int", "float"), "int") == "float"
    block = weights.sizes("block_structure")
    guessed = "group" if size > 0 else "channel" if size == -1 else "tensor"
    strategy = weights.choice("strategy", _STRATEGIES, guessed)
    symmetric = weights.flag("symmetric", True)
    weights.finish()
    if layout == PACKED and (floats or not 2 <= bits <= 8):
        raise BadInput(f"config {weights.where}: {bits} bits of {'float' if floats else 'int'} cannot be {PACKED}")
    if layout in FOUR_BIT_FLOATS and (bits != 4 or not floats):
        raise BadInput(f"config {weights.where}: {layout} holds floats of 4 bits, it says {bits}")
    if layout in PLAIN and bits != 8:
        raise BadInput(f"config {weights.where}: {layout} holds 8 bits, it says {bits}")
    if (strategy == "block") != (block is not None) or (strategy.endswith("group") and size < 1):
        raise BadInput(
            f"config {weights.where}: strategy {strategy!r} with group_size {size} and block_structure {block}"
        )
    return Group(targets, layout, bits, floats, symmetric, strategy, size, block or (1, 1), inputs)


def _inputs(group: Section) -> InputRounding | None:
    """What `input_activations` of a group says. Raises BadInput on what nobody emulates: four bits, zero points."""
    # An observer finds static scales as the checkpoint is written. A dynamic one would be at work at run time.
    fields = group.within("input_activations", ("observer", "observer_kwargs", "zp_dtype", "actorder"))
    if fields is None:
        return None

    def refused(what: str) -> BadInput:
        return BadInput(f"config {fields.where}: {what}: {AT_RUN_TIME}")

    bits, size = fields.integer("num_bits", default=8), fields.integer("group_size", default=0)
    floats = fields.choice("type", ("int", "float"), "int") == "float"
    if bits != 8:
        raise refused(f"{bits} bits")
    if not fields.flag("symmetric", True):
        raise refused("zero points (symmetric = false)")
    static = not fields.flag("dynamic")
    strategy = fields.choice("strategy", ("token", "tensor", "group"), "group" if size > 0 else "tensor")
    fields.unset("scale_dtype", AT_RUN_TIME)
    fields.unset("block_structure", AT_RUN_TIME)
    fields.finish()
    if static and strategy != "tensor":
        raise refused(f"a static scale for each {strategy}")
    if (strategy == "group") != (size > 0):
        raise BadInput(f"config {fields.where}: strategy {strategy!r} with group_size {size}")
    return InputRounding("e4m3" if floats else "int8", strategy, size, static=static)
