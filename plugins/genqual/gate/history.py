"""What runs measured here before, for the drift of this class: launches appended to the state directory, never changed.

One JSON object a line, with a hash of its own. A run only adds to it; only `genqual rebase` reads it, and no run is
judged by it. What is torn, was edited or is of another version is told and left out.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

import genqual
from genqual import digest
from genqual.cases import Json
from genqual.gate.baseline_file import Launch
from genqual.gate.drift import OCCASION_S

VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Past:
    """One launch as a line has it. `at`: seconds since 1970, when it ended. `subject` is the key of a baseline's entry.

    `control` names what the launch was divided by and what must be alike for two of them to be compared; `build` the
    code and packages that were measured; `run` the process that measured.
    """

    at: float
    run: str
    subject: str
    control: str
    build: str
    launch: Launch

    def line(self) -> bytes:
        """With the hash of all else, so that an edit shows."""
        content: dict[str, Any] = {
            **{"version": VERSION, "at": round(self.at, 1), "run": self.run, "subject": self.subject},
            **{"control": self.control, "build": self.build, "launch": self.launch.model_dump(mode="json")},
        }
        return json.dumps({**content, "sha256": _sha256(content)}, separators=(",", ":")).encode() + b"\n"


@dataclass
class History:
    """The file of one hardware class. `problems` says what reading left out, or could not trust, and why."""

    path: Path
    problems: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, state: Path, class_id: str) -> History:
        """The history of a class below a state directory; nothing is made yet."""
        return cls(state / "latency-history" / f"{class_id}.jsonl")

    def add(self, launches: Iterable[Past]) -> None:
        """Append, on disk when this returns; after a line that was cut short, on a line of its own. Raises OSError."""
        text = b"".join(one.line() for one in launches)
        if not text:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            size = stream.seek(0, os.SEEK_END)
            if size:
                stream.seek(size - 1)
                text = text if stream.read(1) == b"\n" else b"\n" + text
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())

    def read(self) -> list[Past]:
        """Every sound line in the order of writing."""
        self.problems.clear()
        found: list[Past] = []
        if not self.path.exists():
            return found
        for number, line in enumerate(self.path.read_bytes().split(b"\n"), start=1):
            if not line.strip():
                continue
            try:
                found.append(_past(line))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                self.problems.append(f"{self.path}: line {number} is left out: {str(error).splitlines()[0]}")
                continue
            if len(found) > 1 and found[-1].at < found[-2].at:
                back = found[-2].at - found[-1].at
                self.problems.append(
                    f"{self.path}: at line {number} the clock had gone back by {back:.0f} s; its launches count as of"
                    " the occasion before"
                )
        return found


def builds_of(past: Sequence[Past], subject: str, control: str) -> list[list[list[float]]]:
    """The log ratios of a subject measured with one control: builds, each with its occasions.

    A gap of a quarter of an hour on the clock makes a new occasion; a clock that went back makes none.
    """
    builds: dict[str, list[list[float]]] = {}
    last: dict[str, float] = {}
    for one in past:
        if (one.subject, one.control) != (subject, control):
            continue
        occasions = builds.setdefault(one.build, [])
        if not occasions or one.at - last[one.build] > OCCASION_S:
            occasions.append([])
        occasions[-1].append(one.launch.z)
        last[one.build] = one.at
    return list(builds.values())


def control_of(identity: Mapping[str, Json], source: str | None, shape: Json, hook: str, launch: Launch) -> str:
    """A name for what two launches must share to be compared: host software, reference step, alternation, repeats."""
    again = launch.steps > 1  # a load time of many loads is not that of one
    return _sha256({"identity": dict(identity), "source": source, "shape": shape, "hook": hook, "again": again})[:16]


def build_here(packages: Mapping[str, str]) -> str:
    """A name for the code of this genqual and the packages that engines are made of here."""
    return _sha256({"source": _source(), "packages": dict(packages)})[:16]


@cache
def _source() -> str:
    root = Path(genqual.__file__).resolve().parent
    files = sorted(root.rglob("*.py"))
    return digest.of_parts(
        f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes() + b"\0" for path in files
    )


def _past(line: bytes) -> Past:
    content = json.loads(line)
    if content.pop("sha256", None) != _sha256(content):
        raise ValueError("it is not what was written: its hash differs (torn by an interruption, or edited)")
    if content["version"] != VERSION:
        raise ValueError(f"version {content['version']}, and this genqual reads {VERSION}")
    return Past(
        at=float(content["at"]),
        launch=Launch.model_validate_json(json.dumps(content["launch"])),
        **{name: str(content[name]) for name in ("run", "subject", "control", "build")},
    )


def _sha256(content: Mapping[str, Any]) -> str:
    return digest.of_json(dict(content))
