"""What can be said of a checkpoint before anything is loaded, as plain data. Reads headers and configurations only."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import numpy as np

from genqual.cases import PRECISIONS, Json
from genqual.commands.tolerances import estimate, size_of
from genqual.conformance.oracle.fields import Fields
from genqual.conformance.oracle.registry import architecture_of, is_contradiction, supported
from genqual.conformance.oracle.spec import Architecture, Model
from genqual.conformance.references import index
from genqual.conformance.references.cost import START_BYTES, START_S, Cost, Rates, Size
from genqual.engines.base import EngineSpec
from genqual.engines.registry import engines
from genqual.errors import BadInput, GenqualError
from genqual.models import dense, hub, safetensor, weights
from genqual.models.declared_inputs import declared
from genqual.models.files import weight_files
from genqual.models.ggufconfig import why_only_its_source
from genqual.models.impossible import impossible
from genqual.models.prompts import prompt_set, token_rows
from genqual.models.quantised import compressed_tensors
from genqual.models.quantised.base import SECTION
from genqual.models.quantised.inputs import PRECISION_OF, InputRounding, why_no_precision
from genqual.models.quantised.registry import inputs_of, method_of, section_of
from genqual.models.registry import cache_dir, resolve
from genqual.models.spec import ModelSpec
from genqual.models.writes_text import why_no_text
from genqual.paths import data_dir
from genqual.session.window_crossing import windows_of

RANKS: Final = (1, 2, 4, 8)
STEPS: Final = 24
SCHEMES: Final = ("bf16", "fp16")
HASHED_BYTES: Final = 1 << 30

# What the conformance suite asks of one case of plain transformers, reckoned from the sizes of its prompts and not
# measured: tokens in passes of several, single-token steps, and processes that start one after another.
TOKENS: Final = 26_000
SINGLE_STEPS: Final = 3_000
PROCESSES: Final = 2


@dataclass
class _Seen:
    """What was found out so far; `problems` keep the model from being judged as it is."""

    model: str
    spec: ModelSpec | None = None
    config: dict[str, Json] | None = None
    declared: Model | None = None
    problems: list[str] = field(default_factory=list)


def explanation(model: str, device: str) -> dict[str, Json]:
    """Everything that is said of `model`; what cannot be known is null, with the reason among `problems`."""
    seen = _Seen(model)
    _look(seen)
    judged = _judged_by(seen)
    stored = _stored(seen)
    tokenizer = _tokenizer(seen)
    made = _references(seen)
    can, cannot = _engines(seen, device)
    costs = _costs(seen, judged)
    own = [] if why_no_precision(_inputs(seen)) else sorted({str(how.precision) for how in _inputs(seen)})
    return {
        "model": model,
        "source": None if seen.spec is None else seen.spec.source,
        "location": None if seen.spec is None else seen.spec.location,
        "architecture": None if seen.config is None else seen.config.get("model_type"),
        "problems": [*seen.problems],
        "judged_by": judged,
        "weights": stored,
        "tokenizer": tokenizer,
        "reference": made,
        "reference_looked_for": seen.spec is not None and not seen.problems and _soon_hashed(seen.spec),
        "device": device,
        "runs": can,
        "unsupported": cannot,
        "estimates": costs,
        "next": _next(seen, bool(judged["oracle"]), made, own, device),
    }


def _look(seen: _Seen) -> None:
    """Fill in what the model is; of a directory that is torn, what its config.json still says."""
    try:
        seen.spec = resolve(seen.model)
        seen.config = weights.config_if_here(seen.spec)
        if seen.config is None and seen.spec.source == "hub":
            seen.problems.append(f"model {seen.spec.location}: {hub.how_to_get(seen.spec)}")
        elif seen.config is None and seen.spec.source == "gguf":
            seen.problems += why_only_its_source(Path(seen.spec.location))
        elif seen.config is not None and (other := why_no_text(seen.config) or impossible(seen.config)) is not None:
            seen.problems.append(f"model {seen.spec.location}: {other}")
        elif seen.config is not None:
            _check_quantised(seen)
    except BadInput as reason:
        seen.problems.append(str(reason))
        file = Path(seen.model).expanduser() / "config.json"
        if file.is_file():
            try:
                read = json.loads(file.read_text(encoding="utf-8"))
            except ValueError:
                return
            seen.config = read if isinstance(read, dict) else None
            kind = str(read.get("model_type", "")) if isinstance(read, dict) else ""
            seen.spec = ModelSpec(file.parent.name, "directory", str(file.parent.absolute()), kind)


def _check_quantised(seen: _Seen) -> None:
    """A problem where the pieces of a quantised weight do not fit, or a static scale of activations cannot be one."""
    assert seen.spec is not None
    try:
        declared(seen.spec)
    except (BadInput, OSError, ValueError) as reason:
        if seen.spec.source == "directory":
            seen.problems.append(str(reason))


def _judged_by(seen: _Seen) -> dict[str, Json]:
    """The oracle of its architecture, or transformers in fp32, and why not the oracle."""
    if seen.config is None:
        return {"oracle": None, "independent": None, "why": "its configuration cannot be read here", "unknown": {}}
    try:
        architecture = architecture_of(seen.config)
    except BadInput:
        known = ", ".join(supported())
        why = f"model_type {seen.config.get('model_type')!r} is none of the oracle's architectures ({known})"
        return {"oracle": None, "independent": False, "why": why, "unknown": {}}
    stored = _names(seen)
    fields = Fields(seen.config, ignores=architecture.ignores, stored=stored)
    unknown: dict[str, Json] = {}
    try:
        model = architecture.build(fields)
        unknown = {name: str(value)[:80] for name, value in sorted(fields.unread().items())}
        fields.finish()
    except BadInput as reason:
        if is_contradiction(reason):
            seen.problems.append(str(reason))
        return {"oracle": None, "independent": False, "why": str(reason), "unknown": unknown}
    seen.declared = model
    _check_weights(seen, architecture)
    return {"oracle": architecture.model_type, "independent": True, "why": architecture.source, "unknown": {}}


def _check_weights(seen: _Seen, architecture: Architecture) -> None:
    """A problem where weights are missing, left over or of another shape than the configuration wants, by headers."""
    if seen.spec is None or seen.spec.source != "directory" or seen.config is None or seen.problems:
        return
    try:
        shapes = weights.shapes(seen.spec)
        architecture.oracle(seen.config, {name: np.broadcast_to(np.float32(0), shapes[name]) for name in shapes})
        for name, wanted in architecture.declared(seen.config, shapes)[0].shapes().items():
            found = shapes.get(name, shapes.get(name.removeprefix(architecture.prefix), wanted))
            if found != wanted:
                raise BadInput(f"{name} has shape {found}, the configuration wants {wanted}")
    except BadInput as reason:
        seen.problems.append(f"model {seen.spec.location}: {reason}")


def _names(seen: _Seen) -> list[str]:
    return list(_entries(seen) or ())


def _entries(seen: _Seen) -> dict[str, safetensor.TensorEntry] | None:
    if seen.spec is None or seen.spec.source != "directory":
        return None
    try:
        return safetensor.checkpoint(Path(seen.spec.location))
    except (BadInput, OSError):
        return None


def _stored(seen: _Seen) -> dict[str, Json]:
    """Counts and bytes: as declared, as stored by dtype, windows and experts."""
    entries, declared = _entries(seen), seen.declared
    size = size_of(seen.spec) if seen.spec is not None and not seen.problems else None
    by_dtype: dict[str, int] = {}
    for entry in (entries or {}).values():
        by_dtype[entry.dtype] = by_dtype.get(entry.dtype, 0) + entry.stop - entry.start
    routed = [
        one for block in (declared.blocks if declared else ()) for part in block.parts() if (one := part.routed())
    ]
    section = _section(seen)
    method = None if section is None else str(section.get("quant_method", "unnamed"))
    return {
        "count": size.weights if size else None,
        "active": size.active if size else None,
        "stored_bytes": dict(sorted(by_dtype.items())) or None,
        "quantised": method,
        "activations": [{"rounded": str(how), "precision": how.precision} for how in _inputs(seen)],
        "activations_unjudged": why_no_precision(_inputs(seen)),
        "windows": [*windows_of(seen.spec)] if seen.spec is not None and seen.config is not None else [],
        "experts": {"of": routed[0][0], "chosen": routed[0][1], "layers": len(routed)} if routed else None,
        "kept_bytes_per_1024": declared.cache_bytes(1024) if declared else None,
    }


def _section(seen: _Seen) -> Mapping[str, Json] | None:
    """What says how the weights are stored. `seen.config` is of the dequantised model, and no longer has it."""
    if seen.spec is None or seen.spec.source not in ("directory", "hub"):
        return None
    try:
        return section_of(weights.stored_config(seen.spec))
    except (BadInput, OSError, ValueError):
        return None


def _inputs(seen: _Seen) -> tuple[InputRounding, ...]:
    """How its checkpoint rounds activations at run time, each way once."""
    section = _section(seen)
    return () if section is None else inputs_of({SECTION: dict(section)})


def _why_not_as_declared(seen: _Seen, spec: EngineSpec, precision: str) -> str | None:
    """Why an engine is not judged in `precision` on a checkpoint that quantises activations, or None.

    One that shows tokens alone may keep the weights narrow; others widen them, and are judged in a dtype, too.
    """
    declared = _inputs(seen)
    if not declared or (spec.tier != "tokens" and precision not in PRECISION_OF.values()):
        return None
    right, why = declared[0].precision, why_no_precision(declared)
    if why is None and right == precision:
        return None
    return f"this checkpoint: {why}" if why else f"quantises activations at run time: declare --dtype {right}"


def _unwidened(seen: _Seen) -> dict[str, str]:
    """By precision, why engines that load by transformers have other weights there than a quantised file declares."""
    if seen.spec is None or seen.spec.source != "directory" or seen.config is None or seen.problems:
        return {}
    if (why := dense.unwidened(seen.spec)) is not None:
        return dict.fromkeys(PRECISIONS, f"transformers {why}")
    quantised = _section(seen) is not None
    once = {"int8-bitsandbytes": "is quantised as it is stored, and cannot be quantised once more"} if quantised else {}
    if (narrow := dense.rounded_to(seen.spec)) is None:
        return once
    why = f"compressed-tensors rounds weights to the dtype of their scales ({narrow[0]}: {narrow[1]})"
    return once | {dtype: why for dtype in ("fp32", "fp16") if dtype != narrow[1]}


def _missing_to_widen(seen: _Seen) -> list[str]:
    """The package by which transformers widens the stored weights, where it is not installed."""
    section = _section(seen)
    needed = section is not None and method_of(section) == compressed_tensors.METHOD
    return [compressed_tensors.METHOD] if needed and not _importable("compressed_tensors") else []


def _tokenizer(seen: _Seen) -> dict[str, Json]:
    """Whether texts become tokens here: without a tokenizer synthetic ids are asked, a broken one fails."""
    if seen.spec is None or seen.config is None:
        return {"status": "unknown", "why": "the model cannot be read here"}
    if seen.spec.source == "directory" and not (Path(seen.spec.location) / "tokenizer.json").is_file():
        return {"status": "missing", "why": "no tokenizer.json: properties of texts are not applicable"}
    try:
        token_rows(seen.spec, ["one two"])
    except BadInput as reason:
        if seen.spec.source == "directory":
            seen.problems.append(str(reason))
        return {"status": "broken" if seen.spec.source == "directory" else "unknown", "why": str(reason)}
    return {"status": "ok", "why": ""}


def _references(seen: _Seen) -> dict[str, Json] | None:
    """A reference that this model has already, where its weights' hash is known without reading them all."""
    if seen.spec is None or seen.problems or not _soon_hashed(seen.spec):
        return None
    try:
        places = [data_dir("baselines") / "references", cache_dir() / "references"]
        folder = index.find(places, seen.spec.name, weights.sha256(seen.spec), seen.config)
    except GenqualError:
        return None
    if folder is None:
        return None
    facts = json.loads((folder / "reference.json").read_text(encoding="utf-8"))
    return {
        "folder": str(folder),
        "tolerances": sorted(facts.get("envelopes", {})),
        "by": facts.get("oracle", "oracle"),
    }


def _soon_hashed(spec: ModelSpec) -> bool:
    """Whether its hash, by which references are found, is kept or takes a second or two."""
    if spec.source == "hub":
        return False
    return weights.hash_is_kept(spec) or sum(file.stat().st_size for file in weight_files(spec)) <= HASHED_BYTES


def _engines(seen: _Seen, device: str) -> tuple[list[Json], list[Json]]:
    """What runs, an engine an entry; and reasons why not, each with the dtypes and ranks that it is of.

    `of_model` tells the reasons that lie in this model from those that hold for any.
    """
    can: list[Json] = []
    cannot: list[Json] = []
    unwidened = _unwidened(seen)
    for name, spec in engines().items():
        runs: dict[int, list[Json]] = {}
        reasons: dict[str, dict[int, list[Json]]] = {}
        general: set[str] = set()
        for ranks in RANKS:
            for dtype in PRECISIONS:
                architecture = seen.spec.architecture if seen.spec else ""
                reason = spec.why_not(
                    device=device, dtype=dtype, ranks=ranks, architecture=architecture, config=seen.config
                )
                reason = reason or _why_not_as_declared(seen, spec, dtype)
                reason = reason or (None if spec.tier == "tokens" else unwidened.get(dtype))
                if reason is None:
                    runs.setdefault(ranks, []).append(dtype)
                else:
                    reasons.setdefault(reason, {}).setdefault(ranks, []).append(dtype)
                    if spec.why_not(device=device, dtype=dtype, ranks=ranks, architecture="") == reason:
                        general.add(reason)
        missing = [module for module in spec.modules if not _importable(module)]
        missing += [] if spec.tier == "tokens" else _missing_to_widen(seen)
        needs = [how for _, how in spec.settings]
        if runs:
            entry: dict[str, Json] = {"engine": name, "ranks": {str(n): dtypes for n, dtypes in runs.items()}}
            can.append(entry | {"missing_packages": [*missing], "needs": [*needs]})
        for reason, where in reasons.items():
            ranks_of: dict[str, Json] = {str(n): dtypes for n, dtypes in where.items()}
            cannot.append({"engine": name, "reason": reason, "ranks": ranks_of, "of_model": reason not in general})
    return can, cannot


def _importable(module: str) -> bool:
    try:
        return find_spec(module.partition(".")[0]) is not None
    except (ImportError, ValueError):
        return False


def _costs(seen: _Seen, judged: Mapping[str, Json]) -> dict[str, Json] | None:
    """Estimates of the reference, with its tolerances, and of the conformance run of one case of plain transformers."""
    if seen.spec is None or seen.problems:
        return None
    try:
        rows = token_rows(seen.spec, prompt_set("bloom").texts, max_tokens=64)
        lengths = [len(row) for row in rows]
    except BadInput:
        lengths = [12] * 8
    found = estimate(seen.spec, lengths, STEPS, SCHEMES, stream=False)
    size = size_of(seen.spec)
    if found is None or size is None:
        return None
    reference, rates = found
    suite = _suite(size, rates, [*windows_of(seen.spec)])
    by = "oracle" if judged["oracle"] else "transformers"
    return {
        "reference": _as_json(reference) | {"by": by, "tolerances": [*SCHEMES]},
        "conformance": _as_json(suite) | {"engine": "transformers", "dtype": "fp32"},
    }


def _suite(size: Size, rates: Rates, windows: list[int]) -> Cost:
    """Of the conformance suite on one case; texts beyond windows are read seven times, once by the oracle."""
    tokens = TOKENS + 7 * sum(windows)
    products = 2 * size.active * tokens / rates.product32 + 2 * size.active * (1024 + sum(windows)) / rates.product64
    decode = SINGLE_STEPS * max(size.active * 4 / rates.memory, size.parts * 20 * rates.call)
    seconds = PROCESSES * START_S + products + decode + size.weights / rates.widened
    return Cost(seconds, 0.0, 16 * size.weights + PROCESSES * START_BYTES, 0.0)


def _as_json(cost: Cost) -> dict[str, Json]:
    return {
        "seconds": round(cost.oracle_s + cost.tolerances_s, 1),
        "memory_bytes": round(cost.memory),
        "disk_bytes": round(cost.disk),
    }


def _next(seen: _Seen, by_oracle: bool, made: object, own: list[str], device: str) -> str:
    """The next command."""
    where = shlex.quote(seen.model)
    if seen.problems:
        return f"mend this first: {seen.problems[0]}"
    if seen.spec is not None and seen.spec.source == "gguf" and seen.config is None:
        return f"python -m genqual.models.convert {where} DIRECTORY"
    if made is not None:
        return f"pytest -m {device} --model={where}"
    by = "" if by_oracle else " --by transformers"
    schemes = f" --schemes {','.join([*SCHEMES, *own])}" if own else ""
    return f"genqual reference {where}{by}{schemes}"
