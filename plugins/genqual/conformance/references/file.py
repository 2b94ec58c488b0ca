"""References on disk: reference.json for people, reference.safetensors for arrays. No network, no pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from genqual import digest
from genqual.atomic import write_whole
from genqual.conformance.references.data import Reference
from genqual.conformance.tolerance import RoundingEnvelope
from genqual.errors import BadInput

FORMAT: Final = "genqual-reference"
VERSION: Final = 1
JSON_NAME: Final = "reference.json"
ARRAYS_NAME: Final = "reference.safetensors"
_MEND: Final = "restore both files together, or delete them and make the reference anew"
_ARRAYS: Final = ("tokens", "margins", "top_ids", "top_logits", "logsumexp", "spread", "projections")


def write(reference: Reference, directory: Path, *, reason: str | None = None) -> str:
    """Write `reference` to `directory` and give back the file's SHA-256; nothing is touched when it says the same.

    Raises BadInput when another reference (or a damaged one) is there: a different one is replaced only for a
    `reason`, which is appended to its history with the hash of what it replaces. A tolerance that is added to what
    stays as it is needs none: nothing that was judged before is judged otherwise.
    """
    arrays = save(_arrays(reference))
    content = _content(reference, digest.of_bytes(arrays))
    history: list[Any] = []
    if (directory / JSON_NAME).exists() or (directory / ARRAYS_NAME).exists():
        read(directory)
        old = _parsed(directory)
        if _said(old) == _said(content):
            return str(old["sha256"])
        added = _added(reference, old)
        reason = (reason or "").strip() or (f"tolerance of {', '.join(added)} added" if added else "")
        if not reason:
            raise _another(directory, old)
        history = [*old["history"], {"reason": reason, "previous": old["sha256"]}]
    content["history"] = history
    content["sha256"] = _digest(content)
    directory.mkdir(parents=True, exist_ok=True)
    # Arrays first: a crash between the two leaves a json that names other arrays, and `read` says so.
    write_whole(directory / ARRAYS_NAME, arrays)
    write_whole(directory / JSON_NAME, _text(content).encode())
    return str(content["sha256"])


def check_alike(directory: Path, prompts: Sequence[Sequence[int]], steps: int, *, independent: bool) -> None:
    """Raises BadInput at once where `write` would at the end: what is there is of other prompts, steps or oracle."""
    if (directory / JSON_NAME).exists():
        old = read(directory)
        rows = tuple(tuple(row) for row in prompts)
        if (old.prompts, old.steps, old.independent) != (rows, steps, independent):
            raise _another(directory, _parsed(directory))


def _another(directory: Path, old: Mapping[str, Any]) -> BadInput:
    return BadInput(
        f"{directory} holds another reference of these weights, made as {old['model']} ({str(old['sha256'])[:12]}), "
        "and a reference is what every verdict is judged by: give a reason to replace it (--reason TEXT, which its "
        "history keeps), or another directory (--out DIR)"
    )


def _added(reference: Reference, old: Mapping[str, Any]) -> list[str]:
    """The schemes whose tolerance `reference` has beside all that `old` has; none where anything else differs."""
    had = {scheme: envelope for scheme, envelope in reference.envelopes.items() if scheme in old["envelopes"]}
    without = replace(reference, envelopes=had)
    alike = _said(old) == _said(_content(without, digest.of_bytes(save(_arrays(without)))))
    return sorted(reference.envelopes.keys() - had.keys()) if alike else []


def _said(content: Mapping[str, Any]) -> dict[str, Any]:
    """What a file says of the reference itself. By which name the model was called says nothing of it."""
    return {key: value for key, value in content.items() if key not in ("history", "sha256", "model")}


def read(directory: Path) -> Reference:
    """The reference in `directory`. Raises BadInput when it is missing, cut short, altered or of a later version."""
    content = _parsed(directory)
    path = directory / ARRAYS_NAME
    if not path.is_file():
        raise BadInput(f"{path} is missing, {JSON_NAME} beside it names it: {_MEND}")
    data = path.read_bytes()
    found = digest.of_bytes(data)
    try:
        wanted = content["arrays"]["sha256"]
        if found != wanted:
            raise BadInput(
                f"{path} has SHA-256 {found}, {JSON_NAME} wants {wanted}: it was cut short or altered; {_MEND}"
            )
        return _reference(content, load(data))
    except (KeyError, TypeError, ValueError, SafetensorError) as error:
        raise BadInput(f"{directory}: not a whole reference ({error}); {_MEND}") from error


def history(directory: Path) -> list[dict[str, str]]:
    """Why the reference in `directory` was replaced, oldest first: {"reason", "previous"} each."""
    return [dict(entry) for entry in _parsed(directory)["history"]]


def facts(directory: Path) -> dict[str, Any]:
    """What reference.json in `directory` says, without the arrays. Raises BadInput as `read` does."""
    return _parsed(directory)


def _parsed(directory: Path) -> dict[str, Any]:
    path = directory / JSON_NAME
    if not path.is_file():
        raise BadInput(f"no reference at {path}: make one with `genqual reference`, or point at the right directory")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(f"{path} is no JSON ({error}): it was cut short or altered; {_MEND}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT or not isinstance(content.get("version"), int):
        raise BadInput(f"{path} is no reference of genqual: its format is not {FORMAT!r}")
    if content["version"] != VERSION:
        raise BadInput(
            f"{path} is of version {content['version']}, this genqual reads {VERSION}: install the genqual that wrote "
            f"it or a later one, or make the reference anew"
        )
    if content.get("sha256") != _digest(content):
        raise BadInput(
            f"{path} says its SHA-256 is {content.get('sha256')}, it is {_digest(content)}: it was edited by hand; "
            f"{_MEND}"
        )
    return content


def _content(reference: Reference, arrays_sha256: str) -> dict[str, Any]:
    content = {
        "format": FORMAT,
        "version": VERSION,
        "model": reference.model,
        "weights_sha256": reference.weights_sha256,
        "vocabulary": reference.vocabulary,
        "steps": reference.steps,
        "independent": reference.independent,
        "generator": dict(reference.generator),
        "envelopes": {
            scheme: {"nrms": envelope.nrms, "honest_runs": list(envelope.fault_free_runs)}
            for scheme, envelope in sorted(reference.envelopes.items())
        },
        "prompts": [list(prompt) for prompt in reference.prompts],
        "arrays": {"file": ARRAYS_NAME, "sha256": arrays_sha256},
    }
    # Through JSON and back, so that it compares equal to what a file says.
    return dict(json.loads(json.dumps(content, allow_nan=False)))


def _arrays(reference: Reference) -> dict[str, NDArray[Any]]:
    arrays = {name: np.ascontiguousarray(getattr(reference, name)) for name in _ARRAYS}
    if reference.router_margins is not None:
        arrays["router_margins"] = np.ascontiguousarray(reference.router_margins)
    for scheme, envelope in reference.envelopes.items():
        arrays[f"envelope.{scheme}.sigma"] = np.ascontiguousarray(envelope.sigma)
        arrays[f"envelope.{scheme}.errors"] = np.ascontiguousarray(envelope.errors)
    return arrays


def _reference(content: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Reference:
    return Reference(
        model=content["model"],
        weights_sha256=content["weights_sha256"],
        vocabulary=content["vocabulary"],
        prompts=tuple(tuple(prompt) for prompt in content["prompts"]),
        independent=content["independent"],
        generator=content["generator"],
        envelopes={
            scheme: RoundingEnvelope(
                nrms=facts["nrms"],
                sigma=arrays[f"envelope.{scheme}.sigma"],
                errors=arrays[f"envelope.{scheme}.errors"],
                fault_free_runs=tuple(facts["honest_runs"]),
            )
            for scheme, facts in content["envelopes"].items()
        },
        sha256=content["sha256"],
        router_margins=arrays.get("router_margins"),  # references of before there were any have none
        **{name: arrays[name] for name in _ARRAYS},
    )


def _digest(content: Mapping[str, Any]) -> str:
    bare = {k: v for k, v in content.items() if k != "sha256"}
    return digest.of_text(json.dumps(bare, sort_keys=True, separators=(",", ":")))


def _text(content: Mapping[str, Any]) -> str:
    """One key a line, so that a difference reads well in review."""
    lines = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in content.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"
