"""One immutable record a measurement or verdict: canonical bytes, SHA-256 id, content key. Pure but for the date.

On disk and in every sink a record is one JSON object: the body's fields and `id`, which is the SHA-256 of the body's
RFC 8785 bytes. Anyone can check it: take `id` out, canonicalise the rest, hash it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, Self, cast

from pydantic import AfterValidator, Field, PrivateAttr, ValidationError, model_validator

from genqual import digest
from genqual.cases import Json
from genqual.digest import canonical
from genqual.errors import GenqualError
from genqual.records.base import Count, Facts, Name, RecordPart
from genqual.records.canonical import parse
from genqual.records.fields import (
    Engine,
    Model,
    Outcome,
    Precision,
    Provenance,
    Software,
    System,
    Workload,
)
from genqual.records.judgement_record import Judgement
from genqual.records.metric import Metric
from genqual.records.outputs import Outputs
from genqual.records.redaction import redact_command

MAJOR: Final = 1
SCHEMA: Final = "genqual/1.0"

_SCHEMA = re.compile(r"genqual/(\d+)\.(\d+)")


class CorruptRecord(GenqualError):
    """The bytes are no record, or not the record that their id names."""


class FutureRecord(GenqualError):
    """A sound record whose schema this genqual is too old to read."""


def now() -> str:
    """This moment in UTC, as records keep it: it sorts as text."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _moment(text: str) -> str:
    if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", text):
        raise ValueError(f"{text!r} is not a UTC moment such as 2026-05-01T12:00:00.000000Z")
    datetime.fromisoformat(text)
    return text


class Record(RecordPart):
    """One measurement, or one verdict, with all that is needed to believe, compare and repeat it.

    `run` names one invocation of the suite and `attempt` counts its tries, so that a repeated measurement is another
    record. `protocol` holds what defines the metrics beyond their definition (warm-up, clock, hooks) and is part of the
    key; `labels` (a test's id) are not. `command` repeats it; passwords in its URLs are not kept.

    Raises ValidationError, a ValueError, on anything JSON cannot hold.
    """

    schema_: Annotated[str, Field(alias="schema", pattern=r"^genqual/1\.\d+$")] = SCHEMA
    run: Name
    attempt: Count = 1
    created: Annotated[str, AfterValidator(_moment)] = Field(default_factory=now)
    kind: Literal["measurement", "judgement"]
    system: System
    software: Software
    model: Model
    engine: Engine
    precision: Precision
    workload: Workload
    outcome: Outcome = Outcome()
    metrics: tuple[Metric, ...] = ()
    outputs: Outputs | None = None
    judgement: Judgement | None = None
    provenance: Provenance = Provenance()
    protocol: Facts = Field(default_factory=dict)
    labels: dict[str, str] = Field(default_factory=dict)
    command: Annotated[str, AfterValidator(redact_command)] = ""

    _body: bytes = PrivateAttr(b"")

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if (self.kind == "judgement") != (self.judgement is not None):
            raise ValueError(f"kind {self.kind}: a judgement has a `judgement`, a measurement has none")
        if self.kind == "measurement" and self.outcome.status == "ok" and not self.metrics:
            raise ValueError("status ok, but nothing was measured: give metrics, or the status that says why not")
        seen = [metric.identity for metric in self.metrics]
        if len(set(seen)) != len(seen):
            raise ValueError(f"a metric stands twice: {', '.join(sorted(name for name, *_ in seen))}")
        return self

    def model_post_init(self, context: Any, /) -> None:
        """Keep the canonical body: what is stored is what was validated, whatever happens to a dict in here later."""
        read = context.get("body") if isinstance(context, dict) else None
        self._body = read or canonical(self.model_dump(mode="json", by_alias=True))

    @property
    def id(self) -> str:
        """SHA-256 of the body's canonical bytes, 64 hexadecimal digits."""
        return digest.of_bytes(self._body)

    def body(self) -> bytes:
        """The hashed bytes: the record without its id."""
        return self._body

    def to_bytes(self) -> bytes:
        """The record as it is kept: canonical bytes, the id among the fields, no newline at the end."""
        return canonical({**cast("dict[str, Json]", parse(self._body)), "id": self.id})

    @staticmethod
    def from_bytes(data: bytes) -> Record:
        """Read and verify. Raises CorruptRecord, or FutureRecord when a newer genqual wrote it.

        A later minor version is read without the fields unknown here; its id and its bytes stay as they were.
        """
        body = _body_of(data)
        claimed = body.pop("id", None)
        _check_version(body)
        try:
            raw = canonical(body)
        except (ValueError, RecursionError) as error:
            raise CorruptRecord(f"not a record: {error}") from None
        actual = digest.of_bytes(raw)
        if claimed != actual:
            raise CorruptRecord(f"the id is {claimed!r}, the content hashes to {actual}: it was changed after writing")
        return _validated(body, raw)

    def facets(self) -> dict[str, Json]:
        """What makes two records comparable, by facet: hardware, engine, model, dtype, workload, definition.

        A model is known by its weights; by name and architecture only where a source does not give them.
        """
        model: Json = {"name": self.model.name, "architecture": self.model.architecture}
        judged = self.judgement
        return {
            "hardware": {"class": self.system.class_id, "used": self.system.used},
            "engine": self.engine.model_dump(mode="json", exclude={"inspection"}),
            "model": {"weights": self.model.weights_sha256} if self.model.weights_sha256 else model,
            "dtype": self.precision.model_dump(mode="json"),
            "workload": self.workload.defining(),
            "definition": {
                "kind": self.kind,
                "protocol": self.protocol,
                "judged": [judged.property, judged.lane, judged.tier] if judged else None,
            },
        }

    def key_of(self, *facets: str) -> str:
        """SHA-256 over the named facets: two records with the same key agree in all of them."""
        return key_over(self.facets(), facets)

    @property
    def key(self) -> str:
        """The content key: what was measured, how and on which class of hardware; never a test's id, run or date."""
        return self.key_of(*self.facets())


def key_over(facets: Mapping[str, Json], names: Sequence[str]) -> str:
    """`Record.key_of` from facets at hand."""
    return digest.of_json({"key": "genqual-key/1", **{name: facets[name] for name in names}})


def _body_of(data: bytes) -> dict[str, Json]:
    try:
        body = parse(data)
    except ValueError as error:
        raise CorruptRecord(f"not a record: {error}") from None
    if not isinstance(body, dict):
        raise CorruptRecord(f"not a record: the JSON is a {type(body).__name__}, not an object")
    return body


def _check_version(body: Mapping[str, Json]) -> None:
    schema = body.get("schema")
    match = _SCHEMA.fullmatch(schema) if isinstance(schema, str) else None
    if match is None:
        raise CorruptRecord(f"not a record: its schema is {schema!r}, not {SCHEMA}")
    if int(match[1]) > MAJOR:
        raise FutureRecord(f"the record is {schema}; this genqual reads genqual/{MAJOR}.x: upgrade genqual to read it")
    if int(match[1]) < MAJOR:
        raise CorruptRecord(f"the record is {schema}, which was never published; this genqual reads genqual/{MAJOR}.x")


def _validated(body: dict[str, Json], raw: bytes) -> Record:
    """`body` as a record that keeps its bytes, `raw`; without what only a later minor version knows.

    Raises CorruptRecord on any other flaw.
    """
    try:
        return Record.model_validate(body, context={"body": raw})
    except ValidationError as error:
        flaws = error.errors()
    for flaw in flaws:
        if not (body["schema"] != SCHEMA and flaw["type"] == "extra_forbidden"):
            where = ".".join(str(step) for step in flaw["loc"]) or "the record"
            raise CorruptRecord(f"not a {SCHEMA} record: {where}: {flaw['msg']}")
        *parents, name = flaw["loc"]
        holder: Any = body
        for step in parents:
            holder = holder[step]
        del holder[name]
    return _validated(body, raw)
