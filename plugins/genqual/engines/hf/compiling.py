"""torch.compile and the static cache, with the work counted to prove that compiled code ran. No model, no generate."""

from __future__ import annotations

import inspect
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch._dynamo
import torch._inductor.config
from torch._dynamo.backends.registry import lookup_backend
from transformers import CompileConfig, StaticCache

from genqual.engines.deepspeed.prebuild import quote_libraries
from genqual.engines.hf import caches
from genqual.errors import BadInput, Unsupported

MODES: Final = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")

# Every batch size, cache length and padding is a graph of its own. Past dynamo's limit (8) it runs eager, silently.
_GRAPHS: Final = 256


@dataclass(slots=True)
class Counts:
    """`compilations`: graphs made; `hits`: calls of any of them."""

    compilations: int = 0
    hits: int = 0


def require_compiler() -> str:
    """The C++ compiler that Inductor would call. Raises Unsupported when there is none."""
    wanted = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++", "c++"]
    for name in wanted:
        if found := shutil.which(name):
            return found
    raise Unsupported(
        f"torch.compile needs a C++ compiler and there is no {' or '.join(wanted)} on this host; install one or set CXX"
    )


def prepare(device: str) -> None:
    """Settings that must stand before anything is traced: weights folded in on a CPU, no silent return to eager."""
    quote_libraries()
    os.environ.setdefault("TORCHINDUCTOR_FREEZING", "1" if device == "cpu" else "0")
    torch._inductor.config.freezing = os.environ["TORCHINDUCTOR_FREEZING"] == "1"
    torch._dynamo.config.cache_size_limit = _GRAPHS
    torch._dynamo.config.accumulated_cache_size_limit = _GRAPHS


def configuration(mode: str, counts: Counts, *, cpp_wrapper: bool = False, dynamic: bool = False) -> CompileConfig:
    """How generate shall compile its decode step: as one graph, by Inductor in `mode`, counted in `counts`.

    `cpp_wrapper`: Inductor writes what calls its kernels in C++, too: less time between kernels, a longer compilation.
    `dynamic`: of any number of rows and length of the cache, not a graph for each.
    """
    config = CompileConfig(fullgraph=True, dynamic=dynamic, mode="default")
    config.backend = counting_inductor(mode, counts, cpp_wrapper=cpp_wrapper)
    config._compile_all_devices = True  # upstream's own switch: without it generate compiles on GPUs only
    return config


def static_cache(model: Any, rows: int, length: int, like: Any) -> StaticCache:
    """Room for `rows` rows of `length` tokens, with heads, widths, dtype and device of `like`, a small cache.

    transformers marks the tensors of a static cache as never moving. With freezing torch 2.13 then bakes them into the
    graph, without a guard: the same graph with another cache reads and writes the first one. Clones carry no mark.
    """
    arguments: dict[str, Any] = {"config": model.config, "max_cache_len": length}
    if "config" not in inspect.signature(StaticCache.__init__).parameters:  # transformers 4.55 allocates at once
        keys = like.layers[0].keys
        arguments |= {"max_batch_size": rows, "device": keys.device, "dtype": keys.dtype}
    cache = StaticCache(**arguments)
    for layer, known in zip(cache.layers, like.layers, strict=True):
        _make_room(layer, known, rows)
        if freezing():
            for name, value in list(vars(layer).items()):
                if isinstance(value, torch.Tensor):
                    setattr(layer, name, value.clone())
                elif isinstance(value, dict):  # the states of a recurrent layer, by their number
                    value |= {key: part.clone() for key, part in value.items() if isinstance(part, torch.Tensor)}
    return cache


def _make_room(layer: Any, known: Any, rows: int) -> None:
    """Allocate the tensors of one static layer for `rows` rows, as the layer `known` of a small cache has them."""
    if caches.has_keys(known) and getattr(layer, "keys", None) is None:
        empty = [part.new_zeros((rows, part.shape[1], 0, part.shape[3])) for part in (known.keys, known.values)]
        layer.lazy_initialization(*empty[: len(inspect.signature(layer.lazy_initialization).parameters)])
    for kind in caches.KINDS:
        for number, state in caches.states(known, kind).items():
            room = state.new_zeros((rows, *state.shape[1:]))
            layer.lazy_initialization(**{f"{kind}_states": room, "state_idx": number})


def counting_inductor(mode: str, counts: Counts, *, cpp_wrapper: bool = False) -> Callable[..., Any]:
    """A torch.compile backend: Inductor in `mode`, with graphs and their calls added to `counts`.

    A plain function, because transformers deep-copies the configuration that holds it. Raises BadInput on a mode.
    """
    if mode not in MODES:
        raise BadInput(f"compile_mode {mode!r}: Inductor knows {', '.join(MODES)}")
    patches = torch._inductor.list_mode_options(mode) | {"cpp_wrapper": cpp_wrapper}
    inductor = lookup_backend("inductor")

    def backend(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        counts.compilations += 1
        compiled = inductor(graph, inputs, config_patches=patches)  # type: ignore[call-arg]  # typed as the plain protocol

        def run(*args: Any) -> Any:
            counts.hits += 1
            return compiled(*args)

        return run

    return backend


def freezing() -> bool:
    """Whether Inductor folds the weights into its graphs."""
    return bool(torch._inductor.config.freezing)


def forget() -> None:
    """Drop every compiled graph: with frozen weights they hold a copy of the model as it was."""
    torch._dynamo.reset()
