"""Ranks on this host's processor for what no device under test does: fault-free runs, peers. No torch here."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import psutil

from genqual.cases import Case, Json
from genqual.devices.registry import processor
from genqual.engines.base import EngineSpec
from genqual.engines.registry import engine
from genqual.errors import BadInput
from genqual.models.dense import dense
from genqual.models.spec import ModelSpec
from genqual.ranks.client import Generator
from genqual.ranks.group_spec import plan
from genqual.ranks.pool import Pool

# No CPU multiplies fp8: what fault-free fp8 reads is emulated, by its own rounding.
_EMULATED: Final[dict[str, dict[str, Json]]] = {"fp8": {"emulate": True}}


def held_in_memory() -> int:
    """Bytes of weights that a streamed run keeps; others are read from disk for each pass.

    A fifth of what is free: the largest matrix, widened, comes on top, and the rest keeps the files in the page
    cache, where bf16 takes half the room of the fp32 that is kept.
    """
    return psutil.virtual_memory().available // 5


def check_runs(dtypes: Collection[str], *, stream: bool) -> None:
    """Raises BadInput on a dtype that has no tolerance here: with `stream`, most schemes."""
    for dtype in dtypes:
        _runs(dtype, stream=stream, name="transformers")


def _runs(dtype: str, *, stream: bool, name: str) -> EngineSpec:
    """The engine that makes tolerances of `dtype`. Raises BadInput where it does not run it."""
    found = engine("accelerate" if stream or dtype == "int8-bitsandbytes" else name)
    if dtype not in found.dtypes:
        other = "leave --stream out, where the weights fit into memory" if stream else f"leave {dtype} out"
        raise BadInput(
            f"--schemes {dtype}: {found.name}, which makes the tolerances here, runs "
            f"{', '.join(sorted(found.dtypes))}; {other}"
        )
    return found


@contextmanager
def cpu_generator(
    spec: ModelSpec,
    dtype: str,
    attention: str | None,
    *,
    progress: Callable[[str], None],
    stream: bool = False,
    name: str = "transformers",
    ranks: int = 1,
    cores: int | None = None,
    env: Mapping[str, str] | None = None,
    taken: Collection[str] = (),
) -> Iterator[Generator]:
    """Ranks on the CPU, one of plain transformers by default, ended afterwards; `stream` offloads weights to disk.

    One core a rank where `cores` are not given; with `stream` all, for such a model takes minutes a pass.

    A quantised checkpoint that transformers cannot widen is written out dequantised, and that is what they load.
    `attention` None: transformers chooses. Cores that others have `taken` are left to them where there are more.
    Raises BadInput on a host without a processor that a device stands for.
    """
    device, eager = processor(), _runs(dtype, stream=stream, name=name)
    presence = device.probe()
    if not presence.present:
        raise BadInput(
            f"this runs on a processor, and {presence.probe} found {presence.found}: use a host that has one. For "
            "verdicts in fp32 alone, a reference by genqual's own oracle needs none: --schemes ''"
        )
    each = cores or (max(1, presence.count // ranks) if stream else 1)
    case = Case(device.name, eager.name, spec.name, dtype, ranks, each)
    place = device.place(ranks, each, taken=frozenset(taken))
    place = replace(place, env=tuple({**own, **(env or {})} for own in place.env))
    with tempfile.TemporaryDirectory(prefix="genqual-") as logs:
        pool = Pool(1, progress=progress)
        options: dict[str, Json] = {} if attention is None else {"attn_implementation": attention}
        options |= _EMULATED.get(dtype, {})
        if stream:
            options |= {"max_memory": held_in_memory(), "contiguous_rows": True}
        group = plan(case, Path(logs), model=dense(spec), placement=place, options=options)
        try:
            yield Generator(pool, group)
        finally:
            pool.close_all()
