"""The launches of a `genqual rebase` that has not ended yet, on disk: an interruption loses the one that was running.

One JSON object a line, appended and synced as each launch ends. The file's name is a hash of what is measured and of
what with, so that launches of other code, cases or software are never taken for these.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from genqual import digest
from genqual.cases import Json
from genqual.errors import BadInput
from genqual.gate.baseline_file import Launch
from genqual.gate.case_launches import Taken

Key = tuple[str, int, tuple[str, ...]]
"""A case, a batch, and the hashes of the weights by rank: a directory may hold another model tomorrow."""

_FIELDS: Final = ("hook", "wall_s", "failed", "cold")


@dataclass(frozen=True, slots=True)
class Unfinished:
    """What was kept of a measurement, in the order in which it was made."""

    path: Path

    @classmethod
    def of(cls, directory: Path, about: Mapping[str, Json]) -> Unfinished:
        """The file of the measurement that `about` describes; nothing is made yet."""
        name = digest.of_json(dict(about))[:16]
        return cls(directory / f"{name}.jsonl")

    def read(self) -> dict[Key, list[Taken]]:
        """Launches by key. A last line that was cut short is left out. Raises BadInput on any other damage."""
        found: dict[Key, list[Taken]] = {}
        if not self.path.exists():
            return found
        lines = self.path.read_bytes().split(b"\n")
        for number, line in enumerate(lines[:-1], start=1):  # what ends without a newline was not written whole
            try:
                one = json.loads(line)
                metrics = {k: Launch.model_validate_json(json.dumps(v)) for k, v in one["metrics"].items()}
                fields = {name: one[name] for name in _FIELDS}
                taken = Taken(metrics, one["probes"], **fields, unmeasured=one.get("unmeasured", {}))
                found.setdefault((one["case"], one["batch"], tuple(one["weights"])), []).append(taken)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise BadInput(f"{self.path}: line {number} is not a launch; delete the file to start again") from error
        return found

    def spans(self, batches: int) -> list[tuple[float, float]] | None:
        """When each batch began and ended, seconds since 1970; None where a batch has no launch, or no clock was kept.

        In the order in which launches ended, not by the clock: a clock that went back shows.
        """
        times: dict[int, list[float]] = {}
        for line in self.path.read_bytes().split(b"\n")[:-1] if self.path.exists() else ():
            one = json.loads(line)
            if not isinstance(one.get("at"), int | float):
                return None
            times.setdefault(one["batch"], []).append(float(one["at"]))
        if set(times) != set(range(batches)):
            return None
        return [(times[batch][0], times[batch][-1]) for batch in range(batches)]

    def add(self, key: Key, taken: Taken) -> None:
        """One more launch, on disk when this returns."""
        case, batch, weights = key
        self.path.parent.mkdir(parents=True, exist_ok=True)
        whole = self.path.read_bytes().rpartition(b"\n")[:2] if self.path.exists() else ()
        with self.path.open("r+b" if whole else "xb") as stream:
            stream.seek(len(b"".join(whole)))  # over a line that was cut short
            line = {
                "case": case,
                "batch": batch,
                "weights": list(weights),
                "metrics": {name: one.model_dump(mode="json") for name, one in taken.metrics.items()},
                "probes": dict(taken.probes),
                "unmeasured": dict(taken.unmeasured),
                "at": round(time.time(), 1),
                **{name: getattr(taken, name) for name in _FIELDS},
            }
            stream.write(json.dumps(line).encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())

    def done(self) -> None:
        """Nothing of it is needed any more."""
        self.path.unlink(missing_ok=True)
