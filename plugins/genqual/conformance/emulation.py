"""How far a fault-free run of a precision should be from the oracle, emulated: the oracle itself, rounding as it goes.

An architecture's declaration is a tree of parts; each part is replaced by the same part that rounds what enters it and
what leaves it. Weights are rounded as a checkpoint is when it is loaded; of one that is stored quantised, and declares
what is done to activations, weights are as stored and inputs of layers are rounded as declared, in the precision of
that. Sums inside a product stay float64, as kernels keep them in float32. Scores and probabilities of attention are
rounded as the eager kernels do. Pure: NumPy only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from types import FunctionType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from genqual.cases import compute_dtype
from genqual.conformance.oracle.attention import Attention
from genqual.conformance.oracle.core import F64, At, Part
from genqual.conformance.oracle.latent import LatentAttention
from genqual.conformance.oracle.linear import Linear
from genqual.conformance.oracle.registry import architecture_of
from genqual.conformance.oracle.rotary import Rotary
from genqual.conformance.oracle.spec import Block, ComposedOracle, Embedding, Head
from genqual.conformance.references.data import Reference
from genqual.conformance.rounding import ACTIVATIONS, Round, e4m3_rows, int8_rows, stored_rounding
from genqual.conformance.router_ties import excuse_of
from genqual.conformance.scores import scores_of
from genqual.conformance.tolerance import errors_of
from genqual.errors import BadInput
from genqual.models.quantised.inputs import InputRounding

_MATRICES: Final[Mapping[str, Round]] = {
    "int8-weight": int8_rows,
    "int8-dynamic": int8_rows,
    "int8-smoothquant": int8_rows,
    "int8-bitsandbytes": int8_rows,
    "fp8": e4m3_rows,
}
"""How a scheme rounds a linear layer's matrix, a row an output."""

_INPUTS: Final[Mapping[str, Round]] = {
    "int8-dynamic": int8_rows,
    # Both keep outliers out of the integers, so that they round less than this: an upper estimate.
    "int8-smoothquant": int8_rows,
    "int8-bitsandbytes": int8_rows,
    "fp8": e4m3_rows,
}
"""How a scheme rounds what enters a linear layer, a row a token."""


def emulated_nrms(
    config: Mapping[str, object],
    weights: Mapping[str, NDArray[Any]],
    reference: Reference,
    precision: str,
    declared: Mapping[str, InputRounding] | None = None,
) -> float | None:
    """nrms that an emulated run of `precision` reads on the reference's own tokens, the rule for router ties applied.

    `declared` is as `emulation` has it. None for a precision that nobody emulates. Raises BadInput as the oracle does.
    """
    if compute_dtype(precision) not in ACTIVATIONS:
        return None
    oracle = emulation(config, weights, precision, declared)
    rows = [
        oracle.logits([*prompt, *(int(t) for t in forced[:-1])])[len(prompt) - 1 :]
        for prompt, forced in zip(reference.prompts, reference.forced, strict=True)
    ]
    scores = scores_of(np.stack(rows, axis=1), reference.forced)
    _, nrms = errors_of(reference.projections, reference.spread, {"emulation": scores}, excuse_of(reference))
    return nrms["emulation"]


def emulation(
    config: Mapping[str, object],
    weights: Mapping[str, NDArray[Any]],
    precision: str,
    declared: Mapping[str, InputRounding] | None = None,
) -> ComposedOracle:
    """The oracle of `config` that rounds as `precision` does.

    `declared` is how a stored checkpoint rounds what enters its layers, by module, with `weights` dequantised: in the
    precision of that it takes the place of the scheme's own roundings; in any other it says nothing. Raises BadInput on
    an architecture without an oracle, and on a declared module that is not one of its linear layers.
    """
    activations = ACTIVATIONS[compute_dtype(precision)]
    architecture = architecture_of(config)
    oracle = architecture.oracle(config, weights, keep=False)
    linears = {one.name for one in _linears(oracle.model.blocks)}
    matrix, inputs = _MATRICES.get(precision), dict.fromkeys(linears, _INPUTS.get(precision))
    if declared and all(one.precision == precision for one in declared.values()):
        named = {one if (one := architecture.prefix + name) in linears else name: how for name, how in declared.items()}
        if beyond := sorted(named.keys() - linears):
            raise BadInput(f"{beyond[0]} quantises what enters it, and is not a linear layer of the oracle's blocks")
        matrix, inputs = None, {name: stored_rounding(how) for name, how in named.items()}
    how = _How(activations, inputs)
    matrices = {f"{name}.weight" for name in linears} | {oracle.model.head.name}
    oracle.weights = _Rounded(oracle.weights, activations, matrix, matrices)  # type: ignore[assignment]
    oracle.model = how.rounding(oracle.model)
    return oracle


class _Rounded:
    """The oracle's weights as they are once loaded: matrices of linear layers quantised where a scheme does so."""

    def __init__(self, weights: Any, activations: Round, matrix: Round | None, matrices: set[str]) -> None:
        self._weights, self._activations, self._matrix, self._matrices = weights, activations, matrix, matrices

    def __contains__(self, name: object) -> bool:
        return name in self._weights

    def __getitem__(self, name: str) -> F64:
        loaded = self._activations(self._weights[name])
        return self._matrix(loaded) if self._matrix and name in self._matrices else loaded

    def matrix(self, name: str) -> F64:
        return self[name]


@dataclass(frozen=True)
class _How:
    """Makes parts round: `activations` all of them, `inputs` what enters a linear layer besides, by its name."""

    activations: Round
    inputs: Mapping[str, Round | None]

    def rounding(self, value: Any) -> Any:
        """A copy of `value` whose parts round; what is no part, and holds none, as it is."""
        if isinstance(value, tuple | list):
            return type(value)(self.rounding(one) for one in value)
        if isinstance(value, FunctionType):  # an activation of an MLP, or of a convolution
            return self._of_array(value)
        if not is_dataclass(value) or isinstance(value, type):
            return value
        made: Any = object.__new__(_rounded_type(type(value)))
        for field in fields(value):
            # Functions of positions (frequencies, biases by key) compute in float32: not to be rounded.
            own = getattr(value, field.name)
            keeps = isinstance(value, Rotary) or field.name == "bias"
            object.__setattr__(made, field.name, own if keeps else self.rounding(own))
        object.__setattr__(made, "how", self)
        if isinstance(value, LatentAttention) and (rounds := self.inputs.get(value.up.name)):
            # It multiplies by `up` itself, for keys and values apart; what its norm gives enters there alone.
            norm = made.norm
            object.__setattr__(made, "norm", lambda x, at: rounds(norm(x, at)))
        return made

    def _of_array(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def rounded(*args: Any, **named: Any) -> Any:
            result = function(*args, **named)
            return self.activations(result) if isinstance(result, np.ndarray) else result

        return rounded


@cache
def _rounded_type(kind: type) -> type:
    """The class `kind` with rounding: around the call of a part, a table or a head, after each branch of a block."""

    def part(self: Any, x: F64, at: At) -> F64:
        x = self.how.activations(x)
        rounds = self.how.inputs.get(self.name) if issubclass(kind, Linear) else None
        x = rounds(x) if rounds else x
        result: F64 = self.how.activations(kind.__call__(self, x, at))
        return result

    def outer(self: Any, x: Any, at: At) -> F64:
        x = self.how.activations(x) if x.dtype.kind == "f" else x
        result: F64 = self.how.activations(kind.__call__(self, x, at))
        return result

    def branch(self: Any, *args: Any) -> F64:
        result: F64 = self.how.activations(kind._branch(self, *args))  # type: ignore[attr-defined]
        return result

    def heads(self: Any, *args: Any) -> Any:
        return tuple(self.how.activations(one) for one in kind.heads_of(self, *args))  # type: ignore[attr-defined]

    def attended(self: Any, *args: Any, **named: Any) -> F64:
        result: F64 = kind.attended(self, *args, rounded=self.how.activations, **named)  # type: ignore[attr-defined]
        return result

    methods: dict[str, Any] = {}
    if issubclass(kind, Part):
        methods["__call__"] = part
    if issubclass(kind, Embedding | Head):
        methods["__call__"] = outer
    if issubclass(kind, Block):
        methods["_branch"] = branch
    if issubclass(kind, Attention):
        methods |= {"heads_of": heads, "attended": attended}
    return type(kind.__name__, (kind,), methods)


def _linears(value: Any) -> Iterator[Linear]:
    """Every linear layer below `value`."""
    if isinstance(value, Linear):
        yield value
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for one in value:
            yield from _linears(one)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from _linears(getattr(value, field.name))
