"""A valid baseline file for the tests of this room, as plain data."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, Final

from genqual.gate.baseline_file import BaselineFile, Entry, Subject

CLASS_ID: Final = "xeon-6-2c-amx"

_SUBJECT: Final = {
    "metric": "tpot",
    "engine": "transformers",
    "dtype": "bf16",
    "ranks": 1,
    "cores_per_rank": 1,
    "weights": ["a" * 64],
    "batch": 1,
    "input_length": 128,
    "new_tokens": 64,
}
_LAUNCH: Final = {
    "z": 0.81,
    "raw": -4.5,
    "frozen": -5.31,
    "steps": 256,
    "p50": 0.011,
    "p90": 0.012,
    "p99": 0.02,
    "autocorrelation_steps": 15.0,
    "cpu_share": 0.98,
    "same": [0.001, -0.002],
    "slowed": [0.05, 0.048],
    "batch": 0,
}
_PROVENANCE: Final = {
    "commit": "488b0751",
    "author": "A. Person",
    "reason": "first baseline",
    "date": "2026-11-21T12:00:00Z",
    "genqual": "0.1.0",
}
# RFC 8785 of the subject and its SHA-256, from another implementation: json with sorted keys, and sha256sum.
SUBJECT_KEY: Final = "7f529ea324ebb147484f0069a44a397906d1fdbe160a506302728f6fe02542f9"

_FILE: Final[dict[str, Any]] = {
    "$schema": "schema.json",
    "version": 1,
    "class_id": CLASS_ID,
    "fingerprint": {"cpu": "Xeon", "cores": 2, "torch": "2.13.0", "flags": ["amx", None]},
    "entries": {
        SUBJECT_KEY: {
            "subject": _SUBJECT,
            "unit": "s",
            "tolerance": 0.05,
            "launches": [_LAUNCH, _LAUNCH | {"z": 0.82}],
            "hook": "steps",
            "frozen": {"hidden": 512, "layers": 5, "dtype": "bf16"},
            "frozen_source": "b" * 64,
            "probes": {"read_bytes_per_s": 1e10},
            "admission": {"read_bytes_per_s": {"low": 9e9, "high": 1.1e10}},
            "identity": {"torch": "2.13.0", "driver": None},
            "provenance": _PROVENANCE,
            "anchor": {"launches": [_LAUNCH], "provenance": _PROVENANCE},
        }
    },
}


_FILE["entries"][SUBJECT_KEY]["digest"] = Entry.model_validate_json(
    json.dumps(_FILE["entries"][SUBJECT_KEY] | {"digest": "0"})
).computed_digest()


def data() -> dict[str, Any]:
    """A fresh copy, to be damaged."""
    return copy.deepcopy(_FILE)


def write(directory: Path, content: dict[str, Any] | str, *, name: str = CLASS_ID) -> Path:
    path = directory / f"{name}.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


SUBJECT: Final = Subject.model_validate_json(json.dumps(_SUBJECT))
ENTRY: Final[Entry] = BaselineFile.model_validate_json(json.dumps(_FILE)).entries[SUBJECT_KEY]
