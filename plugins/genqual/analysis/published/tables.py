"""The published tables as records: `baselines/published/*.toml`, provenance cited or derived. Reads our own data only.

The same bytes each time: ids depend on the tables alone, never on the clock or on the version that reads them.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from genqual.errors import BadInput
from genqual.paths import data_dir
from genqual.records.fields import Engine, Model, Outcome, Precision, Provenance, Software, System, Workload
from genqual.records.metric import Metric
from genqual.records.record import Record

NAME: Final = "published"
"""How `genqual compare` and `genqual report` are told to read these tables."""

_FIELDS: Final = frozenset(
    {"source", "system", "model", "architecture", "engine", "dtype", "used", "ranks", "parallelism", "options"}
    | {"protocol", "software", "prompts", "batch", "input_length", "new_tokens", "metric", "doubts", "provenance"}
    | {"derivation", "generates", "value", "outcome", "message"}
)


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
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise BadInput(f"{path}: not a published table: {error}") from None
    for number, group in enumerate(table.get("group", []), start=1):
        for place, cell in enumerate(group.get("cells", []), start=1):
            where = f"{path.name}, group {number}, cell {place}"
            try:
                yield _record(table, _merged(table.get("common", {}), group, cell))
            except KeyError as error:
                raise BadInput(f"{where}: {error} is missing or not one of the table's own names") from None
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
    unknown = sorted(set(one) - _FIELDS)
    if unknown:
        raise ValueError(f"unknown field {', '.join(unknown)}")
    return one


def _record(table: Mapping[str, Any], cell: Mapping[str, Any]) -> Record:
    source, system = table["sources"][cell["source"]], table["systems"][cell["system"]]
    metric = table["metrics"][cell["metric"]]
    when, outcome = source["date"], cell.get("outcome", "ok")
    if not isinstance(when, date):
        raise ValueError(f"date {when!r} is not a TOML date")
    if (outcome == "ok") != ("value" in cell):
        raise ValueError("give a value, or the outcome that stands in its place")
    generates = cell.get("generates", True)
    return Record(
        run=table["run"],
        created=f"{when.isoformat()}T00:00:00.000000Z",
        kind="measurement",
        system=System(
            device=system["device"], class_id=system["class_id"], used=cell["used"], facts=system.get("facts", {})
        ),
        software=Software(genqual="none: published", versions=cell.get("software", {})),
        model=Model(name=cell["model"], architecture=cell.get("architecture", "")),
        engine=Engine(
            name=cell["engine"],
            ranks=cell.get("ranks", cell["used"]),
            parallelism=cell.get("parallelism", {"tensor": cell["used"]} if cell["used"] > 1 else {}),
            options=cell.get("options", {}),
        ),
        precision=Precision(dtype=cell["dtype"]),
        workload=Workload(
            batch=cell.get("batch"),
            input_length=cell.get("input_length"),
            new_tokens=cell.get("new_tokens") if generates else None,
            prompts=cell.get("prompts") if generates else None,
        ),
        outcome=Outcome(status=outcome, phase=None if outcome == "ok" else "generate", message=_message(cell)),
        metrics=(Metric(value=cell["value"], **metric),) if outcome == "ok" else (),
        provenance=Provenance(
            kind=cell.get("provenance", "cited"),
            source=_source(source, cell),
            url=source["url"],
            doubts=tuple(cell["doubts"]),
        ),
        protocol={"published": metric["definition"], **cell.get("protocol", {})},
    )


def _source(source: Mapping[str, Any], cell: Mapping[str, Any]) -> str:
    where = f"{source['title']}, {source['url']}, {source['date']}"
    return f"{cell['derivation']}; {where}" if "derivation" in cell else where


def _message(cell: Mapping[str, Any]) -> str | None:
    if cell.get("outcome") == "oom":
        return str(cell.get("message", "the table says OOM"))
    return cell.get("message")
