"""What the stand-in says to each thing a Gaudi punishes, as JSON. One process: importing torch takes longest."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import habana_frameworks.torch.core as htcore
import habana_frameworks.torch.hpu as hthpu
import torch
from habana_frameworks.torch.hpu.metrics import metric_global

ANSWERS: dict[str, Any] = {}


def count(name: str) -> int:
    return int(dict(metric_global(name).stats())["TotalNumber"])


def said(act: Callable[[], Any]) -> str:
    try:
        act()
    except (RuntimeError, TypeError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def compiled(act: Callable[[], Any]) -> int:
    before = count("graph_compilation")
    act()
    htcore.mark_step()
    return count("graph_compilation") - before


def square(x: torch.Tensor) -> torch.Tensor:
    return x @ x.T + 1


def call(graph: Any, rows: int, results: list[torch.Tensor]) -> None:
    results.append(graph(torch.full((rows, 4), float(rows)).to("hpu")).cpu())


def main() -> None:
    ones = torch.ones(3, 4, device="hpu")
    host = torch.ones(3, 4)
    ANSWERS["device"] = [
        str(ones.device),
        str((ones + ones).device),
        str(ones.cpu().device),
        str(ones.to("cpu").device),
    ]
    ANSWERS["mixed"] = said(lambda: ones + host)
    ANSWERS["scalar"] = said(lambda: ones + torch.tensor(2.0))
    ANSWERS["numpy"] = said(ones.numpy)
    later = (ones * 2).to("cpu", non_blocking=True)
    ANSWERS["unsynchronised"] = said(later.sum)
    hthpu.synchronize()
    ANSWERS["synchronised"] = said(later.sum)
    start, end = (hthpu.Event(enable_timing=True) for _ in range(2))
    start.record()
    end.record()
    ANSWERS["event"] = said(lambda: start.elapsed_time(end))
    htcore.mark_step()
    shapes = [(2, 2), (2, 2), (2, 3), (2, 2)]
    inputs = [torch.ones(shape).to("hpu") for shape in shapes]
    htcore.mark_step()
    ANSWERS["lazy"] = [compiled(partial(square, x)) for x in inputs]
    ANSWERS["modes"] = {"graphs": hasattr(hthpu, "wrap_in_hpu_graph")}
    if hasattr(hthpu, "wrap_in_hpu_graph"):
        layer = torch.nn.Linear(4, 2).to("hpu")
        ANSWERS["parameters"] = sorted({str(p.device) for p in layer.parameters()})
        expected = [layer(torch.full((rows, 4), float(rows)).to("hpu")).cpu() for rows in (1, 2, 1)]
        graph = hthpu.wrap_in_hpu_graph(layer)
        htcore.mark_step()
        results: list[torch.Tensor] = []
        ANSWERS["graph"] = [compiled(partial(call, graph, rows, results)) for rows in (1, 2, 1)]
        ANSWERS["replay"] = [bool(torch.equal(a, b)) for a, b in zip(results, expected, strict=True)]
        first = graph(torch.full((1, 4), 3.0).to("hpu"))
        kept = first.cpu()
        graph(torch.full((1, 4), 9.0).to("hpu"))
        ANSWERS["overwritten"] = not bool(torch.equal(first.cpu(), kept))
        ANSWERS["bypassed"] = compiled(lambda: graph(torch.ones(5, 4).to("hpu"), bypass_hpu_graphs=True)) > 0
    rows = torch.vmap(lambda x: (x + x.to(ones.device)).to("cpu"))(ones)  # as transformers makes its masks
    ANSWERS["vmap"] = [str(rows.device), bool(torch.equal(rows.cpu(), host * 2))]
    ANSWERS["vmap of the host"] = str(torch.vmap(lambda x: x + x)(host).device)
    ANSWERS["fallbacks"] = count("cpu_fallback")
    torch.argmax(ones)
    ANSWERS["fallbacks_after"] = count("cpu_fallback")
    ANSWERS["unknown_metric"] = metric_global("no_such") is None
    ANSWERS["second_card"] = said(lambda: hthpu.set_device(1))
    print(json.dumps(ANSWERS))


main()
