"""Rounds what enters the experts of a layer that transformers holds in one module, with two parameters for all of them.

Experts are told apart by no module there, so that what enters them can be rounded in their products only. Torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode

from genqual.engines.hf.input_rounding import rounded
from genqual.errors import EngineFailed, Unsupported
from genqual.models.quantised.inputs import InputRounding

_EXPERT: Final = re.compile(r"(?P<module>.*\.experts)\.(?P<index>\d+)\.(?P<part>gate_proj|up_proj|down_proj)")
_PARAMETER: Final = {"gate_proj": "gate_up_proj", "up_proj": "gate_up_proj", "down_proj": "down_proj"}


class _Products(TorchFunctionMode):
    """In every product with a part of one of `parameters`, the input rounded as it says; no other may happen."""

    def __init__(self, parameters: list[tuple[torch.Tensor, InputRounding]]) -> None:
        super().__init__()
        self.parameters = parameters

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not linear:
            return func(*args, **(kwargs or {}))
        x, weight, *more = args
        place = weight.untyped_storage().data_ptr()
        for parameter, how in self.parameters:
            if parameter.untyped_storage().data_ptr() == place:
                return func(rounded(x, how), weight, *more, **(kwargs or {}))
        raise EngineFailed(
            "a product of experts with a weight that is none of theirs, so that nothing rounds its input"
        )


def apply(model: Any, found: Mapping[str, InputRounding], precision: str) -> Mapping[str, InputRounding]:
    """Make fused experts of `model` round as `found` says, in place; gives back what of it is of no expert.

    Experts that are modules of their own stay among that. Raises Unsupported where the experts of a layer are not all
    rounded alike: a product does not say which expert it is of.
    """
    modules, rest = dict(model.named_modules()), dict(found)
    layers: dict[str, dict[str, dict[tuple[int, str], InputRounding]]] = {}
    for name, how in found.items():
        one = _EXPERT.fullmatch(name)
        fused = modules.get(one["module"]) if one else None
        if one is None or not isinstance(getattr(fused, "gate_up_proj", None), torch.nn.Parameter):
            continue
        parameters = layers.setdefault(one["module"], {})
        parameters.setdefault(_PARAMETER[one["part"]], {})[int(one["index"]), one["part"]] = how
        del rest[name]
    for layer, by_parameter in layers.items():
        module, alike = modules[layer], []
        for parameter, count in (("gate_up_proj", 2), ("down_proj", 1)):
            said = by_parameter.get(parameter, {})
            if len(set(said.values())) != 1 or len(said) != count * len(getattr(module, parameter)):
                raise Unsupported(
                    f"{precision}: of the experts of {layer}, which {type(model).__name__} holds in one parameter, "
                    f"{len(said)} say in {len(set(said.values()))} ways how what enters {parameter} is rounded; "
                    "nothing here rounds that expert by expert; judge this checkpoint in bf16"
                )
            alike.append((getattr(module, parameter), next(iter(said.values()))))
        _wrap(module, alike)
    if layers:
        model.set_experts_implementation("eager")  # others multiply all experts at once
    return rest


def _wrap(module: Any, parameters: list[tuple[torch.Tensor, InputRounding]]) -> None:
    """Compute `module` under `_Products`."""
    plain = module.forward

    def forward(*args: Any, **named: Any) -> Any:
        with _Products(parameters):
            return plain(*args, **named)

    module.forward = forward
