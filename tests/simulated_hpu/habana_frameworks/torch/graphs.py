"""HPU graphs of the simulated card: captured by the shapes of their inputs, replayed on buffers of their own."""

from __future__ import annotations

import functools
from typing import Any

from habana_frameworks.torch.card import CARD

import torch
from torch.utils import _pytree


class Graph:
    """One capture: static inputs, static outputs. A replay copies in, computes, and overwrites the last outputs."""

    def __init__(self, run: Any, leaves: list[Any], spec: Any) -> None:
        self._run, self._spec = run, spec
        with CARD.graph():
            self._inputs = [leaf.clone() if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        CARD.compilations += 1
        self.outputs = self._compute()

    def _compute(self) -> Any:
        args, kwargs = _pytree.tree_unflatten(self._inputs, self._spec)
        with CARD.graph():
            return self._run(*args, **kwargs)

    def replay(self, leaves: list[Any]) -> Any:
        with CARD.graph():  # copies in and out are no graphs of their own
            for static, given in zip(self._inputs, leaves, strict=True):
                if isinstance(static, torch.Tensor) and not _stale(given):
                    static.copy_(given)
            args, kwargs = _pytree.tree_unflatten(self._inputs, self._spec)
            fresh = _pytree.tree_leaves(self._run(*args, **kwargs))
            for old, new in zip(_pytree.tree_leaves(self.outputs), fresh, strict=True):
                if isinstance(old, torch.Tensor) and old is not new:
                    old.copy_(new)
        return self.outputs


def _stale(given: torch.Tensor) -> bool:
    """The fault of a replay that does not see what changed between two steps: tokens and positions."""
    return "stale_graph_input" in CARD.faults and not given.is_floating_point()


def wrap_in_hpu_graph(
    module: Any,
    asynchronous: bool = True,
    disable_tensor_cache: bool = False,
    hash_with_views: bool = True,
    dry_run: bool = False,
    max_graphs: int | None = None,
) -> Any:
    """Replace the module's forward by one that captures a graph for each new signature of its inputs."""
    forward, graphs = module.forward, dict[Any, Graph]()

    @functools.wraps(forward)
    def replayed(*args: Any, bypass_hpu_graphs: bool = False, **kwargs: Any) -> Any:
        if bypass_hpu_graphs:
            return forward(*args, **kwargs)
        leaves, spec = _pytree.tree_flatten((args, kwargs))
        key = (str(spec), *(_signature(leaf) for leaf in leaves))
        if "recompilation" in CARD.faults:
            graphs.clear()
        if key in graphs:
            return graphs[key].replay(leaves)
        graph = Graph(forward, leaves, spec)
        if max_graphs is None or len(graphs) < max_graphs:
            graphs[key] = graph
        return graph.outputs

    module.forward = replayed
    module.clear_cache = graphs.clear
    module.clear_inputs = lambda: None
    return module


def _signature(leaf: Any) -> Any:
    if isinstance(leaf, torch.Tensor):
        return (tuple(leaf.shape), leaf.dtype, str(leaf.device))
    return repr(leaf)
