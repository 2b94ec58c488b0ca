"""What the page shows as plain tables beside the rows: the matrix, verdicts, differences, runs. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Final

from genqual.analysis.cells import FAILED, cells, waiver_of
from genqual.analysis.compare_reasons import differing
from genqual.analysis.report.rows import ReportRow
from genqual.records.record import Record

MATRICES: Final = 12
PAIRS: Final = 24


@dataclass(frozen=True, slots=True)
class LatencyTable:
    """msec per token of one model: a line a configuration, a column a batch, OOM and skipped in their own words."""

    title: str
    batches: tuple[int, ...]
    lines: tuple[tuple[str, tuple[str, ...]], ...]


def matrices(rows: Sequence[ReportRow]) -> list[LatencyTable]:
    """The matrix of every model that has one, the published BLOOM tables first."""
    groups: dict[tuple[str, str], list[ReportRow]] = defaultdict(list)
    for row in rows:
        failed = row.status in ("oom", "skipped", "unsupported", "timeout", "error") and row.rate_source == ""
        if row.batch and (row.msec_per_token is not None or failed):
            lengths = "" if row.input is None else f", {row.input} input tokens"
            groups[row.model, f"{lengths}, {row.new} new tokens"].append(row)
    found = []
    for (model, lengths), some in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])):
        if not any(row.msec_per_token for row in some):
            continue
        batches = tuple(sorted({row.batch for row in some if row.batch}))
        lines: dict[str, dict[int, str]] = defaultdict(dict)
        for row in some:
            note = " (derived)" if row.provenance == "derived" else ""
            lines[row.configuration + note][row.batch or 0] = _cell(row)
        found.append(
            LatencyTable(
                f"{model}{lengths}",
                batches,
                tuple((name, tuple(at.get(batch, "") for batch in batches)) for name, at in sorted(lines.items())),
            )
        )
    return sorted(found, key=lambda matrix: not matrix.title.startswith("bloom-176b"))[:MATRICES]


def _cell(row: ReportRow) -> str:
    if row.status == "oom":
        return "OOM"
    if row.msec_per_token is None or not (row.ok or row.status == "accuracy_fail"):
        return row.status
    return f"{row.msec_per_token:.2f}" + (" WRONG" if row.status == "accuracy_fail" else "")


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What was judged of one configuration: counts by verdict, and the one closest to or beyond its limit."""

    case: str
    lane: str
    tier: str
    counts: Mapping[str, int]
    worst: str
    share: float | None
    independent: bool | None
    failures: tuple[str, ...] = field(default=())


def verdicts(records: Sequence[Record]) -> list[Verdicts]:
    """A line for each configuration, precision mode and tier of evidence; failures one by one."""
    groups: dict[tuple[str, str, str], list[Record]] = defaultdict(list)
    for cell in cells(records, "judgement"):
        record = cell.last
        if record.judgement is not None:
            case = f"{record.model.name}, {record.system.class_id}, {record.engine.label}, {record.precision.dtype}"
            groups[case, record.judgement.lane, record.judgement.tier].append(record)
    found = []
    for (case, lane, tier), some in sorted(groups.items()):
        judged = [record.judgement for record in some if record.judgement is not None]
        shares = [(one.nrms / one.limit, one.property) for one in judged if one.nrms is not None and one.limit]
        share, worst = max(shares, default=(None, ""))
        wrong = [(record.judgement, waiver_of(record)) for record in some]
        failures = tuple(
            f"{one.property}: {one.explanation}" if excuse is None else f"WAIVED ({excuse}): {one.property}"
            for one, excuse in wrong
            if one is not None and one.verdict in FAILED
        )
        known = {one.independent for one in judged if one.independent is not None}
        counts = Counter(one.verdict if excuse is None else "waived" for one, excuse in wrong if one is not None)
        found.append(Verdicts(case, lane, tier, counts, worst, share, all(known) if known else None, failures))
    return found


@dataclass(frozen=True, slots=True)
class Difference:
    """Two platforms and one model: how many rows they share, or what keeps the closest two apart."""

    model: str
    a: str
    b: str
    shared: int
    fields: tuple[str, ...]


def differences(records: Sequence[Record]) -> list[Difference]:
    """For each model on several platforms: what may be compared, and the fields that forbid it elsewhere."""
    newest = [cell.last for cell in cells(records, "measurement")]
    models: dict[str, dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in newest:
        models[record.model.name][record.system.class_id].append(record)
    found = []
    for model, platforms in sorted(models.items()):
        for a, b in combinations(sorted(platforms), 2):
            ours, theirs = (
                [(r, r.key_of("model", "dtype", "workload", "definition")) for r in platforms[p]] for p in (a, b)
            )
            shared = {key for _, key in ours} & {key for _, key in theirs}
            fields: tuple[str, ...] = ()
            if not shared:
                fields = min((differing(x, y) for x, _ in ours[:20] for y, _ in theirs[:20]), key=len)
            found.append(Difference(model, a, b, len(shared), fields))
    return found[:PAIRS]


@dataclass(frozen=True, slots=True)
class RunLine:
    """One run: when, what with, the command that repeats it, and whether it is signed."""

    name: str
    created: str
    records: int
    suite: str
    software: str
    command: str
    signature: str
    provenance: str


def runs(records: Sequence[Record], signatures: Mapping[str, str]) -> list[RunLine]:
    """The runs behind the rows, newest first."""
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        groups[record.run].append(record)
    lines = []
    for name, some in groups.items():
        last = max(some, key=lambda record: record.created)
        versions = ", ".join(f"{key} {value}" for key, value in sorted(last.software.versions.items()))
        suite = " ".join(filter(None, (last.software.genqual, last.software.commit)))
        kinds = ", ".join(sorted({record.provenance.kind for record in some}))
        command = last.command or ("genqual published list" if kinds != "measured" else "not recorded")
        signed = signatures.get(name, "cited: its source stands for it" if "cited" in kinds else "not signed")
        lines.append(RunLine(name, last.created[:19], len(some), suite, versions, command, signed, kinds))
    return sorted(lines, key=lambda line: line.created, reverse=True)
