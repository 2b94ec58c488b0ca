"""Read a committed latency baseline, one JSON file a hardware class. Never writes; no torch, no pytest, no clock."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NoReturn

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from genqual import digest
from genqual.errors import BadInput

VERSION: Final = 1
_CLASS_ID: Final = re.compile(r"[a-z0-9][a-z0-9._-]*")
_RESERVED: Final = frozenset({"schema"})  # baselines/latency/schema.json describes these files and is not one

Positive = Annotated[float, Field(gt=0)]
NonEmpty = Annotated[str, Field(min_length=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Subject(_Strict):
    """What a baseline is about. Its canonical JSON is hashed to the entry's key, so no test may rename it away.

    `weights` are the weight hashes of the ranks in rank order; `metric` is a name of `definitions.DEFINITIONS`.
    """

    metric: NonEmpty
    engine: NonEmpty
    dtype: NonEmpty
    ranks: Annotated[int, Field(ge=1)]
    cores_per_rank: Annotated[int, Field(ge=0)]
    weights: Annotated[tuple[NonEmpty, ...], Field(min_length=1)]
    batch: Annotated[int, Field(ge=1)]
    input_length: Annotated[int, Field(ge=1)]
    new_tokens: Annotated[int, Field(ge=1)]

    @property
    def key(self) -> str:
        """SHA-256, hex, of the RFC 8785 form of this subject."""
        return digest.of_json(self.model_dump(mode="json"))


class Range(_Strict):
    """Both ends allowed."""

    low: float
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")
        return self


class Launch(_Strict):
    """One fresh process. `z`, `raw` and `frozen` are natural logarithms; quantiles are in the unit of the entry.

    `z` is the median of log(candidate / frozen), `raw` of log candidate, `frozen` of log frozen, in the unit; null
    where no reference step ran. `floor` and `frozen_floor` are the levels that the fastest 5 % stay below. `steps`
    were measured; neighbours among them are alike, `autocorrelation_steps` says over how many. `same` and `slowed` are
    the self-test's blocks, see docs/gate.md; `batch` says which were made together.
    """

    z: float
    raw: float
    frozen: float | None
    steps: Annotated[int, Field(ge=1)]
    p50: Positive
    p90: Positive
    p99: Positive
    autocorrelation_steps: Positive | None
    cpu_share: Annotated[float, Field(ge=0)] | None
    same: tuple[float, ...] = ()
    slowed: tuple[float, ...] = ()
    floor: float | None = None
    frozen_floor: float | None = None
    batch: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _ordered(self) -> Launch:
        if not self.p50 <= self.p90 <= self.p99:
            raise ValueError(f"quantiles {self.p50}, {self.p90}, {self.p99}: must not fall")
        return self


class Provenance(_Strict):
    """Who measured these launches, of which commit, when and why."""

    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{7,64}$")]
    author: NonEmpty
    reason: NonEmpty
    date: AwareDatetime
    genqual: NonEmpty


class FrozenShape(_Strict):
    """How large the reference step is and what it computes in; rows and context are the workload's."""

    hidden: Annotated[int, Field(ge=64, multiple_of=64)]
    layers: Annotated[int, Field(ge=1)]
    dtype: Literal["fp32", "bf16"]


class Anchor(_Strict):
    """The first launches ever accepted for this subject; later ones may not drift away from them unseen."""

    launches: Annotated[tuple[Launch, ...], Field(min_length=1)]
    provenance: Provenance


class KnownDrift(_Strict):
    """How much the occasions of this class differ, when the entry was made; see `gate.drift`.

    `sd` 0.012: their means vary by 1.2 %. `freedom`: how well that is known, the prior included. `occasions`: the
    occasion of each batch of the entry's launches.
    """

    sd: Annotated[float, Field(ge=0)]
    freedom: Positive
    occasions: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]


class Entry(_Strict):
    """The launches that one subject is judged against.

    `tolerance` is the slowdown that must be found, as a share, null where the metric is exact: the metric's own, or
    what these launches and the drift of the class need where the gate cannot pair with the build of `provenance`.
    `identity` is what a run must share to be judged, `hook` how candidate and reference alternated: between steps, or
    whole requests. `digest` is the hash of all else, so that an edit by hand shows. `frozen_source` is the hash of the
    reference step's source, null where no reference step ran beside the candidate;
    `probes` were measured with the launches, `admission` is what a later run's probes must lie in to be judged.
    `drift` and `packages` (versions of what the engine is made of) are absent from older entries.
    """

    subject: Subject
    unit: NonEmpty
    tolerance: Annotated[float, Field(gt=0, lt=1)] | None
    launches: Annotated[tuple[Launch, ...], Field(min_length=1)]
    hook: Literal["steps", "requests"]
    frozen: FrozenShape | None
    frozen_source: NonEmpty | None
    probes: dict[str, float]
    admission: dict[str, Range]
    identity: dict[str, JsonValue]
    provenance: Provenance
    anchor: Anchor
    digest: NonEmpty
    drift: KnownDrift | None = None
    packages: dict[str, NonEmpty] | None = None

    @model_validator(mode="after")
    def _every_batch_has_an_occasion(self) -> Entry:
        last = max(one.batch for one in self.launches)
        if self.drift is not None and len(self.drift.occasions) <= last:
            raise ValueError(f"drift.occasions has {len(self.drift.occasions)} batches, and the launches {last + 1}")
        return self

    @model_serializer(mode="wrap")
    def _without_what_is_absent(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Older entries stay as they were written, byte for byte, and so do their digests."""
        made: dict[str, Any] = write(self)
        return {k: v for k, v in made.items() if not (v is None and k in ("drift", "packages"))}

    def computed_digest(self) -> str:
        """SHA-256, hex, of the RFC 8785 form of everything but `digest`."""
        return digest.of_json(self.model_dump(mode="json", exclude={"digest"}))

    def sealed(self) -> Entry:
        """The same entry with its digest right: for who has just made it."""
        return self.model_copy(update={"digest": self.computed_digest()})


class BaselineFile(_Strict):
    """All baselines of one hardware class. `fingerprint` is what the device told of the host that wrote it."""

    schema_: Annotated[str, Field(alias="$schema")] = "schema.json"
    version: Literal[1]
    class_id: Annotated[str, Field(pattern=f"^{_CLASS_ID.pattern}$")]
    fingerprint: dict[str, JsonValue]
    entries: dict[str, Entry]

    @model_validator(mode="after")
    def _keyed_by_content(self) -> BaselineFile:
        for key, entry in self.entries.items():
            if key != entry.subject.key:
                raise ValueError(f"entry {key[:12]}: its subject hashes to {entry.subject.key[:12]}; edited by hand?")
            if entry.digest != entry.computed_digest():
                raise ValueError(f"entry {key[:12]}: its digest is not that of its content; edited by hand?")
        return self

    def entry(self, key: str) -> Entry | None:
        """The entry of a subject's key, or None: there is no baseline."""
        return self.entries.get(key)


def find(directory: Path, class_id: str) -> BaselineFile | None:
    """The baselines of a hardware class, or None when none were ever committed. Raises BadInput, as `read` does."""
    if not _CLASS_ID.fullmatch(class_id) or class_id in _RESERVED:
        raise BadInput(
            f"hardware class {class_id!r}: must be lower-case letters, digits, '.', '_' and '-', not 'schema'"
        )
    if not directory.is_dir():
        raise BadInput(f"baselines {directory}: no such directory; give the one that holds schema.json")
    path = directory / f"{class_id}.json"
    if not path.exists():
        return None
    found = read(path)
    if found.class_id != class_id:
        raise BadInput(f"{path}: holds baselines of {found.class_id}, not of {class_id}; was it copied or renamed?")
    return found


def read(path: Path) -> BaselineFile:
    """Read and check one file. Raises BadInput for anything but a whole, unambiguous file of a version we know."""
    restore = "restore it from version control"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot be read as UTF-8 text: {error}; {restore}") from error
    try:
        data = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: not the JSON of a baseline: {error}; {restore}") from error
    version = data.get("version") if isinstance(data, dict) else None
    if type(version) is not int or version < 1:
        raise BadInput(f"{path}: no version; is this a latency baseline? {restore}")
    if version > VERSION:
        raise BadInput(f"{path}: version {version}, this genqual reads up to {VERSION}; install a newer genqual")
    try:
        return BaselineFile.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise BadInput(f"{path}: {place}: {first['msg']}{more}; {restore}") from error


def schema() -> dict[str, Any]:
    """The JSON schema that is published beside the files, baselines/latency/schema.json."""
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "genqual latency baseline"}
    return head | {k: v for k, v in BaselineFile.model_json_schema(by_alias=True).items() if k != "title"}


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"key {key[:64]!r} stands twice in one object, and readers differ in which they take")
        found[key] = value
    return found


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a number; an unknown is null")


def _finite(digits: str) -> float:
    if not math.isfinite(number := float(digits)):
        raise ValueError(f"{digits} is too large for a number")
    return number
