"""What was run and where, as the parts of a record. Reads what devices, engines and models say; measures nothing."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from genqual.cases import SCHEMES, Case, Json, Workload
from genqual.devices.registry import devices
from genqual.engines.registry import engine
from genqual.errors import BadInput
from genqual.models.registry import resolve
from genqual.models.spec import ModelSpec
from genqual.records import fields, software
from genqual.records.pseudonyms import Names

DISTRIBUTIONS: Final = (
    "torch",
    "transformers",
    "deepspeed",
    "accelerate",
    "tokenizers",
    "safetensors",
    "numpy",
    "pytest",
    "pytest-benchmark",
    "optimum-habana",
    "habana-torch-plugin",
    "bitsandbytes",
    "torchao",
)
CONTAINER: Final = "GENQUAL_CONTAINER_DIGEST"
"""A container cannot read the digest of its own image: whoever starts it says it here."""

_CACHES: Final = {"DynamicCache": "dynamic", "StaticCache": "static"}
_ASKED: Final = re.compile(r"(?i)tried to allocate ([\d.]+) ?(bytes|[KMGT]i?B)")
_UNITS: Final = {"b": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


@cache
def names() -> Names:
    """How this host's name and serial numbers are kept: hashed, unless GENQUAL_PLAIN_NAMES is set to 1."""
    plain = os.environ.get("GENQUAL_PLAIN_NAMES", "0")
    if plain not in ("0", "1"):
        raise BadInput(f"GENQUAL_PLAIN_NAMES={plain}: give 1 to keep host names and serial numbers readable, else 0")
    return Names(platform.node(), os.environ.get("GENQUAL_HASH_KEY", ""), plain == "1")


def subject(case: Case, weights_sha256: str | None, inspection: Mapping[str, Json]) -> dict[str, Any]:
    """System, software, model, engine and precision of `case`; `inspection` is what rank 0 says really runs."""
    model, spec = resolve(case.model), engine(case.engine)
    return {
        "system": _system(case.device, _used(case)),
        "software": _software(),
        "model": fields.Model.of(model, weights_sha256, checkpoint=_checkpoint(model)),
        "engine": fields.Engine(
            name=case.engine,
            ranks=case.ranks,
            parallelism=_parallelism(case),
            options={**spec.options, "cores_per_rank": case.cores_per_rank},
            inspection=names().facts(dict(inspection)),
            streams=case.ranks if spec.streams else None,
            **_really(inspection),
        ),
        "precision": fields.Precision(dtype=case.dtype, scheme=case.dtype if case.dtype in SCHEMES else None),
        "provenance": _provenance(case.device),
    }


def workload(
    case: Case, asked: Workload, inspection: Mapping[str, Json], lengths: tuple[int, ...] | None
) -> fields.Workload:
    """The workload as it was run: every row is real input, and `lengths` are the tokens each row really got."""
    told = inspection.get("generate")
    return fields.Workload.of(
        asked,
        batch_scope="global",  # a group of streams divides it
        real_input_tokens=asked.batch * asked.input_length,
        real_new_tokens=None if lengths is None else sum(lengths),
        generate_arguments={**told, "max_new_tokens": asked.new_tokens} if isinstance(told, dict) and told else None,
    )


def _parallelism(case: Case) -> dict[str, int]:
    """What the ranks share: one model's tensors, or nothing, each with prompts of its own."""
    if case.ranks == 1:
        return {}
    return {"data" if engine(case.engine).streams else "tensor": case.ranks}


def asked_bytes(message: str) -> int | None:
    """What an allocator says it was asked for when memory ran out: "Tried to allocate 2.00 GiB"; None where silent."""
    match = _ASKED.search(message)
    return int(float(match[1]) * _UNITS[match[2][0].lower()]) if match else None


@cache
def _used(case: Case) -> int:
    """How many of the device's parts the case takes: cores of a processor, else cards."""
    if case.cores_per_rank:
        return case.ranks * case.cores_per_rank
    try:
        return case.ranks * devices()[case.device].place(case.ranks, 0).threads
    except BadInput:  # more ranks than the host has cores: a case that is only recorded, as unsupported
        return case.ranks


@cache
def _system(device: str, used: int) -> fields.System:
    digest = os.environ.get(CONTAINER, "").strip() or None
    if digest is not None and not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise BadInput(f"{CONTAINER}={digest}: give an image's digest, sha256: and 64 hexadecimal digits")
    return fields.System.of(devices()[device].identity(), used, names=names(), container_digest=digest)


@cache
def _provenance(device: str) -> fields.Provenance:
    if devices()[device].identity().facts.get("simulated"):
        return fields.Provenance(kind="simulated", source="--simulate: no card, CPU arithmetic; never to be compared")
    return fields.Provenance()


@cache
def _software() -> fields.Software:
    return fields.Software.here(DISTRIBUTIONS, **software.facts(Path.cwd()))


def _checkpoint(model: ModelSpec) -> str:
    if model.source == "embedded":
        return "built"
    if model.source != "directory":
        return model.source
    place = Path(model.location)
    for suffix, word in (("safetensors", "safetensors"), ("bin", "bin")):
        if count := len(list(place.glob(f"*.{suffix}"))):
            return word if count == 1 else f"{word}-{count}"
    return "directory"


def _really(inspection: Mapping[str, Json]) -> dict[str, Any]:
    """What the engine did, from its own words; what it does not say stays unknown."""
    if not inspection:
        return {}
    cache_class = str(inspection.get("cache", ""))
    graphs = inspection.get("graphs", "compile_mode" in inspection)
    return {
        "graphs": graphs not in (False, None, "", "none"),
        "kv_cache": _CACHES.get(cache_class, cache_class) or None,
        "offload": inspection.get("offload"),
    }
