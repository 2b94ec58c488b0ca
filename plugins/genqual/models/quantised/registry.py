"""Which stored formats genqual dequantises: by `quant_method` in the section `quantization_config` of config.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from genqual.cases import Json
from genqual.errors import BadInput
from genqual.models.quantised import awq, bnb, compressed_tensors, fp8, gptq, mxfp4, nvfp4
from genqual.models.quantised.base import SECTION, Scheme
from genqual.models.quantised.inputs import InputRounding, check_precision

FORMATS: Final[Mapping[str, Callable[[Mapping[str, Json]], Scheme]]] = {
    module.METHOD: module.scheme for module in (awq, bnb, compressed_tensors, fp8, gptq, mxfp4, nvfp4)
}
"""What reads the section of each `quant_method`."""

_OLD_SECTION: Final = "compression_config"  # as compressed-tensors called it at first


def section_of(config: Mapping[str, Json]) -> Mapping[str, Json] | None:
    """The section of `config` that says how its checkpoint is quantised; None where it is not."""
    for name in (SECTION, _OLD_SECTION):
        section = config.get(name)
        if section:
            if not isinstance(section, dict):
                raise BadInput(f"config {name} = {section!r}: a mapping is wanted; give the model's whole config.json")
            return section
    return None


def method_of(section: Mapping[str, Json]) -> str:
    """The name of a format, as FORMATS has it."""
    name = str(section.get("quant_method")).lower()
    return name if name in FORMATS else name.replace("_", "-")


def scheme_of(config: Mapping[str, Json]) -> Scheme | None:
    """How the checkpoint of `config` is quantised, None where it is not.

    Raises BadInput, with the next step, on a format that is not known, and on fields of one that is.
    """
    section = section_of(config)
    if section is None:
        return None
    method = section.get("quant_method")
    read = FORMATS.get(method_of(section))
    if read is None:
        raise BadInput(
            f"config {SECTION}: quant_method {method!r} is not dequantised here (known: {', '.join(sorted(FORMATS))}); "
            "give the checkpoint that this one was made from, or make its reference with `genqual reference MODEL "
            "--by transformers` where transformers loads it on the CPU"
        )
    return read(section)


def undone(config: Mapping[str, Json]) -> bool:
    """Whether the checkpoint of `config` is quantised in a way that is undone here."""
    try:
        return scheme_of(config) is not None
    except BadInput:
        return False


def inputs_of(config: Mapping[str, Json]) -> tuple[InputRounding, ...]:
    """How a checkpoint of `config` rounds what enters its layers at run time, each way once and without static scales.

    Empty where it does not, and where the format is not known here.
    """
    try:
        scheme = scheme_of(config)
    except BadInput:
        return ()
    if isinstance(scheme, fp8.Fp8):
        return (scheme.inputs,)
    if isinstance(scheme, compressed_tensors.CompressedTensors):
        return tuple(dict.fromkeys(group.inputs for group in scheme.groups if group.inputs is not None))
    return ()


def check_activations(config: Mapping[str, Json], model: str, precision: str) -> None:
    """Raises Unsupported where engines that keep the weights narrow round activations otherwise than `precision` says.

    For an engine that cannot be told, or seen, to widen the weights. Formats that are not known here say nothing.
    """
    check_precision(inputs_of(config), precision, model)


def plain(config: Mapping[str, Json]) -> dict[str, Json]:
    """`config` of the dequantised model: without the section, where it is one that is undone; else as it is."""
    quantised = undone(config)
    return {name: value for name, value in config.items() if not quantised or name not in (SECTION, _OLD_SECTION)}
