"""What makes the pairs of a data set: the fingerprint that a file of pairs is gone on with by. No torch."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Final

import genqual
from genqual import digest
from genqual.cases import Case, Json
from genqual.devices.base import kind_of
from genqual.devices.registry import devices
from genqual.engines.registry import engine
from genqual.models.catalogue import FETCHABLE
from genqual.models.identity import files_sha256, identity, short
from genqual.models.spec import ModelSpec
from genqual.ranks.client import Generator
from genqual.records.redaction import redact
from genqual.records.software import versions
from genqual.session.record_fields import DISTRIBUTIONS

FORM: Final = "genqual-pairs/2"
_TESTERS: Final = frozenset({"pytest", "pytest-benchmark"})  # packages that a record names and that generate nothing


def made_by(generator: Generator, prompts: str, input_tokens: int, new_tokens: int) -> str:
    """The fingerprint of the pairs that `generator` makes of `prompts`, an identity of their source: a line of JSON.

    It has the model's weights and files, the engine with all that it was told, the versions of the packages that
    generate, the code and the hardware that they run on, and the lengths. The batch is left out: a run that memory
    ended goes on with a smaller one. Starts the group: what it loaded counts where the files cannot be read here.
    """
    case, plan = generator.case, generator.plan
    model = identity(plan.model)
    if not {"weights", "files", "file"} & set(model):
        model["loaded"] = [one.weight_hash for one in generator.loaded]
    told = told_of(plan.options)
    if plan.tier == "tokens":
        served = generator.inspect()[0].get("served_model")
        told |= {"served_model": served} if served else {}
    facts: dict[str, Json] = {
        "form": FORM,
        "device": case.device,
        "engine": case.engine,
        "options": told,
        "ranks": case.ranks,
        "cores_per_rank": case.cores_per_rank,
        "dtype": case.dtype,
        "model": model,
        "prompts": prompts,
        "input_tokens": input_tokens,
        "new_tokens": new_tokens,
        "versions": _versions(case.engine),
        "code": code_sha256(case.engine),
    }
    if "endpoint" not in plan.options:  # else this host is the client's only
        facts["hardware"] = hardware_of(case)
    return json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def told_of(options: Mapping[str, Json]) -> dict[str, Json]:
    """What an engine is told by its options, without passwords, and which files its command names."""
    told = {name: redact(value) if isinstance(value, str) else value for name, value in options.items()}
    return told | _programs(str(options.get("command", "")))


def hardware_of(case: Case) -> str:
    """The kind of hardware that a case computes on; empty where it is absent."""
    known = devices()[case.device]
    return kind_of(known.identity().class_id) if known.probe().present else ""


def code_sha256(name: str) -> str:
    """SHA-256 of the code of the engine `name`: of its package, or of what genqual's own are made of.

    A package that is being worked on keeps its version. Empty where it is not installed in this environment.
    """
    module = engine(name).implementation.partition(":")[0]
    top = module.partition(".")[0]
    found = find_spec(top)
    if found is None:
        return ""
    places = [Path(place) for place in found.submodule_search_locations or ()]
    if top == "genqual":
        places = [place / part for place in places for part in ("engines", "models", "ranks")]
    files = [file for place in places for suffix in ("py", "so") for file in place.rglob(f"*.{suffix}")]
    return files_sha256(sorted(files) or [Path(str(found.origin))])


def _programs(command: str) -> dict[str, Json]:
    """The files that a third party's command names, by their hash: the program may be another under its old name."""
    try:
        words = shlex.split(command)
    except ValueError:
        return {}
    files = [Path(found) for word in words if (found := word if Path(word).is_file() else which(word))]
    return {"programs": files_sha256(files)} if files else {}


def file_name(case: Case, model: ModelSpec) -> str:
    """What a case's pairs are called; two models with one name have two files.

    An embedded or fetched name says all. Where a model is named by a path or a hub id, or the engine by options that
    an id cannot spell, a short hash of both follows.
    """
    spelt = case.engine in case.id and case.model in case.id
    if spelt and (model.source == "embedded" or case.model in FETCHABLE):
        return case.id
    told = f"{short(model)} {case.engine} {case.cores_per_rank}"
    return f"{case.id}-{digest.of_text(told)[:8]}"


def _versions(name: str) -> dict[str, Json]:
    """Of genqual and of every package here that may have a say in what `name` generates."""
    spec = engine(name)
    imported = {module.partition(".")[0] for module in (spec.implementation.partition(":")[0], *spec.modules)}
    provided = packages_distributions()
    distributions = {one for module in imported - {"genqual"} for one in provided.get(module, [])}
    found = versions(sorted({*DISTRIBUTIONS, *distributions} - _TESTERS))
    return {"genqual": genqual.__version__, **found}


def difference(found: str, wanted: str) -> str:
    """In which facts two fingerprints differ; nothing where one of them is not of this form."""
    try:
        one, other = json.loads(found), json.loads(wanted)
    except ValueError:
        return ""
    if not isinstance(one, dict) or not isinstance(other, dict):
        return ""
    names = sorted({**one, **other})
    return ", ".join(name for name in names if one.get(name) != other.get(name))
