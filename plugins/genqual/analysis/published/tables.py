"""The published tables as records: `baselines/published/*.toml`, provenance cited or derived. Reads our own data only.

The same bytes each time: ids depend on the tables alone, never on the clock or on the version that reads them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any, Final, Literal, Self, TypeVar

from pydantic import Field, ValidationError, model_validator

from genqual import toml_file
from genqual.errors import BadInput
from genqual.paths import data_dir
from genqual.records.fields import Engine, Model, Outcome, Precision, Provenance, Software, Status, System, Workload
from genqual.records.metric import Better, Metric
from genqual.records.record import Record
from genqual.toml_file import Listed, Texts, TomlTable

T = TypeVar("T")

NAME: Final = "published"
"""How `genqual compare` and `genqual report` are told to read these tables."""


class _SourceTable(TomlTable):
    title: str
    url: str
    date: date


class _SystemTable(TomlTable):
    device: str
    class_id: str
    facts: dict[str, Any] = Field(default_factory=dict)


class _MetricTable(TomlTable):
    name: str
    unit: str
    better: Better
    statistic: str
    definition: str


class _CellTable(TomlTable):
    """One number of a table, with what its group and the whole table say of it."""

    source: str
    system: str
    model: str
    architecture: str = ""
    engine: str
    dtype: str
    used: int
    ranks: int | None = None
    parallelism: dict[str, int] | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    protocol: dict[str, Any] = Field(default_factory=dict)
    software: dict[str, str] = Field(default_factory=dict)
    prompts: str | None = None
    batch: int | None = None
    input_length: int | None = None
    new_tokens: int | None = None
    metric: str
    doubts: Texts = ()
    provenance: Literal["cited", "derived"] = "cited"
    derivation: str | None = None
    generates: bool = True
    value: float | None = None
    outcome: Status = "ok"
    message: str | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.outcome == "ok") != (self.value is not None):
            raise ValueError("give a value, or the outcome that stands in its place")
        return self


class _PublishedFile(TomlTable):
    """A file of `baselines/published`: what cells name, and groups of cells. A cell is checked when it is whole."""

    run: str
    sources: dict[str, _SourceTable]
    systems: dict[str, _SystemTable]
    metrics: dict[str, _MetricTable]
    common: dict[str, Any] = Field(default_factory=dict)
    group: Listed[dict[str, Any]] = ()


def published(directory: Path | None = None) -> list[Record]:
    """Every record of the tables, in the files' order. Raises BadInput that names file and cell on any flaw."""
    found = []
    for path in sorted((directory or data_dir("baselines") / "published").glob("*.toml")):
        found += list(_records(path))
    ids = [record.id for record in found]
    if len(set(ids)) != len(ids):
        raise BadInput("the published tables hold a cell twice: take one of the two out")
    return found


def doubts(record: Record) -> list[str]:
    """What the source leaves in doubt about this number, in the table's order."""
    return list(record.provenance.doubts or ())


def _records(path: Path) -> Iterator[Record]:
    table = toml_file.read(path, _PublishedFile, what="a published table")
    for number, group in enumerate(table.group, start=1):
        for place, written in enumerate(group.get("cells", []), start=1):
            where = f"{path.name}, group {number}, cell {place}"
            cell = toml_file.checked(_CellTable, _merged(table.common, group, written), where)
            try:
                yield _record(table, cell)
            except ValidationError as error:
                flaw = error.errors()[0]
                raise BadInput(f"{where}: {'.'.join(map(str, flaw['loc']))}: {flaw['msg']}") from None
            except ValueError as error:
                raise BadInput(f"{where}: {error}") from None


def _merged(common: Mapping[str, Any], group: Mapping[str, Any], cell: Mapping[str, Any]) -> dict[str, Any]:
    """The cell's fields over the group's over the common ones; doubts add up, common ones where there is text."""
    one = {**common, **{name: value for name, value in group.items() if name != "cells"}, **cell}
    one["doubts"] = [
        text
        for part in (common if group.get("generates", True) else {}, group, cell)
        for text in part.get("doubts", [])
    ]
    return one


def _record(table: _PublishedFile, cell: _CellTable) -> Record:
    source, system = _named("source", table.sources, cell.source), _named("system", table.systems, cell.system)
    metric = _named("metric", table.metrics, cell.metric)
    return Record(
        run=table.run,
        created=f"{source.date.isoformat()}T00:00:00.000000Z",
        kind="measurement",
        system=System(device=system.device, class_id=system.class_id, used=cell.used, facts=system.facts),
        software=Software(genqual="none: published", versions=cell.software),
        model=Model(name=cell.model, architecture=cell.architecture),
        engine=Engine(
            name=cell.engine,
            ranks=cell.used if cell.ranks is None else cell.ranks,
            parallelism=_parallelism(cell),
            options=cell.options,
        ),
        precision=Precision(dtype=cell.dtype),
        workload=Workload(
            batch=cell.batch,
            input_length=cell.input_length,
            new_tokens=cell.new_tokens if cell.generates else None,
            prompts=cell.prompts if cell.generates else None,
        ),
        outcome=Outcome(
            status=cell.outcome, phase=None if cell.outcome == "ok" else "generate", message=_message(cell)
        ),
        metrics=(Metric(value=cell.value, **metric.model_dump()),) if cell.outcome == "ok" else (),
        provenance=Provenance(kind=cell.provenance, source=_source(source, cell), url=source.url, doubts=cell.doubts),
        protocol={"published": metric.definition, **cell.protocol},
    )


def _named(what: str, known: Mapping[str, T], name: str) -> T:
    if name not in known:
        raise ValueError(f"{what} = {name!r}: not one that the file has; known are {', '.join(known)}")
    return known[name]


def _parallelism(cell: _CellTable) -> dict[str, int]:
    if cell.parallelism is not None:
        return cell.parallelism
    return {"tensor": cell.used} if cell.used > 1 else {}


def _source(source: _SourceTable, cell: _CellTable) -> str:
    where = f"{source.title}, {source.url}, {source.date}"
    return where if cell.derivation is None else f"{cell.derivation}; {where}"


def _message(cell: _CellTable) -> str | None:
    return cell.message or ("the table says OOM" if cell.outcome == "oom" else None)
