"""A simulated Gaudi: tensors that say they live on `hpu`, computed by the CPU under the rules of lazy mode. No model.

What real hardware punishes with silence is an error or a count here: mixing host and device tensors, reading a
non-blocking copy before `synchronize`, a new shape (a compilation), an operator without a kernel (a fallback).
"""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree

# Reads by the host of a value: the device has to have finished first, so each of them waits for it.
READS: Final = {
    "item",
    "tolist",
    "__bool__",
    "__int__",
    "__float__",
    "__index__",
    "__contains__",
    "equal",
    "is_nonzero",
}
FACTS: Final = {
    "__get__",
    "size",
    "dim",
    "stride",
    "numel",
    "is_floating_point",
    "is_contiguous",
    "data_ptr",
    "nelement",
}
TAKES_HOST_TENSORS: Final = {"copy_", "__getitem__", "__setitem__", "__set__", "to", "type_as"}


class Card:
    """The one device of this process, and what is counted on it."""

    def __init__(self) -> None:
        self.lazy = os.environ.get("PT_HPU_LAZY_MODE", "0") == "1"  # its default since Synapse 1.21
        modules = os.environ.get("HABANA_VISIBLE_MODULES", "0")
        self.count = len(modules.split(","))
        self.index = 0
        self.faults = set(filter(None, os.environ.get("SIMULATED_HPU_FAULTS", "").split(",")))
        self.unsupported = set(filter(None, os.environ.get("SIMULATED_HPU_UNSUPPORTED", "").split(",")))
        self.compilations = 0
        self.fallbacks: Counter[str] = Counter()
        self.dispatched = 0  # operators given to the device since it was last waited for
        self.inside_graph = False
        self._trace: list[Any] = []
        self._recipes: set[int] = set()
        self._promised: list[Promised] = []

    def ran(self, name: str, tensors: Sequence[torch.Tensor]) -> None:
        """Take note of one operator."""
        self.dispatched += 1
        if name in self.unsupported:
            self.fallbacks[name] += 1
        if self.inside_graph:
            return
        self._trace.append((name, tuple((tuple(t.shape), t.dtype) for t in tensors)))
        if not self.lazy:
            self.mark_step()

    def mark_step(self) -> None:
        """Compile what was traced, unless the same trace was compiled before, and start it."""
        if self._trace:
            recipe = hash(tuple(self._trace))
            self.compilations += recipe not in self._recipes
            self._recipes.add(recipe)
            self._trace = []

    def synchronize(self) -> None:
        """Wait for the device: every promised copy is there."""
        self.mark_step()
        self.dispatched = 0
        for promised in self._promised:
            promised.kept = True
        self._promised = []

    def promise(self, values: torch.Tensor) -> Promised:
        """A copy to the host that is under way."""
        promised = values.as_subclass(Promised)
        promised.kept = False
        self._promised.append(promised)
        return promised

    @contextmanager
    def graph(self) -> Iterator[None]:
        """Operators in this block are one graph: they are not traced one by one."""
        self.mark_step()
        self.inside_graph = True
        try:
            yield
        finally:
            self.inside_graph = False


class Promised(torch.Tensor):
    """A non-blocking copy to the host; to read it before the device was waited for is an error."""

    kept: bool

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for value in _pytree.tree_leaves((args, kwargs)):
            if isinstance(value, Promised) and not value.kept:
                raise RuntimeError(
                    "a non-blocking copy was read before torch.hpu.synchronize(): its values are not there yet"
                )
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))


class HpuTensor(torch.Tensor):
    """A tensor on the simulated device; its bytes are the CPU's."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device("hpu", CARD.index)

    @property
    def is_cpu(self) -> bool:  # type: ignore[override]
        return False

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatch(func, args, kwargs or {})


def names_hpu(value: Any) -> bool:
    """Whether `value` is the device, as torch takes it."""
    if isinstance(value, torch.device):
        return value.type == "hpu"
    return isinstance(value, str) and value.partition(":")[0] == "hpu"


def names_host(value: Any) -> bool:
    if isinstance(value, torch.device):
        return value.type == "cpu"
    return isinstance(value, str) and value == "cpu"


def lowered(value: Any) -> Any:
    """Arguments as the CPU takes them."""
    if names_hpu(value):
        return torch.device("cpu")
    if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size) and type(value) in (list, tuple):
        return type(value)(lowered(item) for item in value)
    if type(value) is dict:
        return {key: lowered(item) for key, item in value.items()}
    return value


def raised(result: Any) -> Any:
    """Results as the device gives them."""
    if isinstance(result, torch.Tensor):
        return result if isinstance(result, HpuTensor) else result.as_subclass(HpuTensor)
    if type(result) in (list, tuple):
        return type(result)(raised(item) for item in result)
    if isinstance(result, tuple) and hasattr(result, "_fields"):  # what max and topk return
        return type(result)(raised(item) for item in result)
    return result


def dispatch(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run `func`, of which an argument is a tensor of the device or the device itself."""
    name = getattr(func, "__name__", str(func))
    if name in FACTS:
        with torch._C.DisableTorchFunctionSubclass():
            return raised(func(*args, **kwargs))
    tensors: list[torch.Tensor] = []
    places: list[Any] = []
    gather(args, tensors, places)
    gather(kwargs.values(), tensors, places)
    ours, identity_mismatches = [], []
    for tensor in tensors:
        if batched(tensor):
            return inside_vmap(func, name, args, kwargs)
        if isinstance(tensor, HpuTensor):
            ours.append(tensor)
        elif tensor.dim() > 0 and tensor.device.type != "meta":
            identity_mismatches.append(tensor)
    if ours and identity_mismatches and name not in TAKES_HOST_TENSORS and not name.startswith("_"):
        raise RuntimeError(f"{name}: expected all tensors on one device, found hpu and {identity_mismatches[0].device}")
    if name in {"numpy", "__array__", "__dlpack__"} and ours:
        raise TypeError("cannot convert a tensor of hpu to numpy; call .cpu() first")
    if name == "cpu" or (name == "to" and ours and any(names_host(place) for place in places)):
        return to_host(func, name, args, kwargs)
    if name in READS:
        CARD.synchronize()
    if places:
        args, kwargs = lowered(args), lowered(kwargs)
    with torch._C.DisableTorchFunctionSubclass():
        result = func(*args, **kwargs)
    if name in READS:
        return result
    if not isinstance(result, torch.Tensor):
        found: list[torch.Tensor] = []
        gather((result,), found, [])
        if not found:
            return result
    CARD.ran(name, ours)
    return raised(result)


def gather(values: Iterable[Any], tensors: list[torch.Tensor], places: list[Any]) -> None:
    """Put the tensors among `values`, and what may name a device, into the two lists.

    By hand, for torch's pytree takes longer than all the rest of an operator on a small tensor.
    """
    for value in values:
        if isinstance(value, torch.Tensor):
            tensors.append(value)
        elif isinstance(value, (str, torch.device)):
            places.append(value)
        elif isinstance(value, (list, tuple)):
            gather(value, tensors, places)
        elif isinstance(value, dict):
            gather(value.values(), tensors, places)


def batched(value: Any) -> bool:
    """Whether `value` is what `vmap` gives to the function that it maps; transformers makes its masks so."""
    return isinstance(value, torch.Tensor) and bool(torch._C._functorch.is_batchedtensor(value))


def inside_vmap(func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """One operator under `vmap`: its arguments have no storage and lost their place, so all of it is the device's."""
    with torch._C.DisableTorchFunctionSubclass():
        moved = [arg for arg in args[1:] if not (name == "to" and (names_host(arg) or names_hpu(arg)))]
        result = func(args[0], *lowered(moved), **lowered(kwargs)) if moved or name != "to" else args[0]
    if any(isinstance(leaf, torch.Tensor) for leaf in _pytree.tree_leaves(result)):
        CARD.ran(name, [])
    return raised(result)


def mapping(vmap: Any) -> Any:
    """torch's `vmap`, whose results live where its arguments do: it unwraps them beneath torch's own hooks."""

    @functools.wraps(vmap)
    def made(func: Any, *args: Any, **kwargs: Any) -> Any:
        mapped = vmap(func, *args, **kwargs)

        @functools.wraps(func)
        def run(*inputs: Any, **options: Any) -> Any:
            result = mapped(*inputs, **options)
            ours = any(isinstance(leaf, HpuTensor) for leaf in _pytree.tree_leaves((inputs, options)))
            return raised(result) if ours else result

        return run

    return made


def to_host(func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A copy on the host: it waits for the device, or is only promised when asked not to block."""
    later = bool(kwargs.get("non_blocking")) or (name == "to" and any(a is True for a in args[2:3]))
    if not later:
        CARD.synchronize()
    with torch._C.DisableTorchFunctionSubclass():
        values = func(*args, **kwargs).as_subclass(torch.Tensor)
        values = values.clone() if values.data_ptr() == args[0].data_ptr() else values
    return CARD.promise(values) if later else values


class OnDevice(TorchFunctionMode):
    """What makes `device="hpu"` in any call of torch mean the simulated card."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if len(types) == 1 and types[0] is HpuTensor:  # where `func` would take us, by a longer way
            return dispatch(func, args, kwargs)
        device = kwargs.get("device")
        moved = names_hpu(device) or (getattr(func, "__name__", "") == "to" and any(names_hpu(a) for a in args[1:]))
        if not moved:
            return func(*args, **kwargs)
        return dispatch(func, args, kwargs)


CARD: Final = Card()


def switch_on() -> None:
    """Register the device with torch, as importing the vendor's core does. Harmless twice."""
    from habana_frameworks.torch import hpu

    if getattr(torch, "hpu", None) is hpu:
        return
    torch.hpu = hpu  # type: ignore[attr-defined]
    torch.vmap = mapping(torch.vmap)
    mode: Any = OnDevice()
    mode.__enter__()  # for the life of the process
    # Otherwise Module.to keeps the old parameter objects, which are tensors of the host.
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    if torch.distributed.is_available():
        from habana_frameworks.torch.distributed.hccl import Hccl

        torch.distributed.Backend.register_backend("hccl", Hccl, devices=["cpu", "hpu"])
