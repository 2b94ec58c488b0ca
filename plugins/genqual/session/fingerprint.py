"""What makes the pairs of a data set: the fingerprint that a file of pairs is gone on with by. No torch."""

from __future__ import annotations

import json
import shlex
from importlib.metadata import packages_distributions
from pathlib import Path
from shutil import which
from typing import Final

import genqual
from genqual import digest
from genqual.cases import Case, Json
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
    generate, and the lengths. Starts the group: what it loaded counts where the files cannot be read here.
    """
    case, plan = generator.case, generator.plan
    model = identity(plan.model)
    if not {"weights", "files", "file"} & set(model):
        model["loaded"] = [one.weight_hash for one in generator.loaded]
    told = {name: redact(value) if isinstance(value, str) else value for name, value in plan.options.items()}
    told |= _programs(str(plan.options.get("command", "")))
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
    }
    return json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


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
