"""Cells of records as flat rows, in the units that a page shows. Pure: no file, no chart, no HTML."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final

from genqual.analysis.accuracy import Accuracy
from genqual.analysis.cells import Cell, cells, waiver_of
from genqual.analysis.published.prices import Price, price_of, rate
from genqual.cases import PROCESSORS, REPEATED
from genqual.records.record import Record

LIMIT: Final = 2000  # rows on one page: what stays below 3 MB
_WALL: Final = ("e2e", "msec_per_token", "s_per_token")
_TIMES: Final = ("load_s", "compile_s", "cold_s", "warm_s")


@dataclass(frozen=True, slots=True)
class ReportRow:
    """One configuration on one workload: its newest run, each value the median over attempts, null where unknown.

    `devices` are cards, or CPU sockets; `user_ms` is what a reader waits for a token: TPOT, or where only that was
    published the wall time divided by the tokens of a row, prefill included (`user_kind` says which).
    """

    id: str
    run: str
    created: str
    platform: str
    device: str
    devices: int
    model: str
    architecture: str
    engine: str
    dtype: str
    bits: int
    workload: str
    batch: int | None
    input: int | None
    new: int | None
    status: str
    message: str
    accuracy: str  # right (not independent: by transformers), wrong, waived (a known failure is excused), not judged
    provenance: str
    source: str
    doubts: tuple[str, ...]
    definition: str  # what distinguishes rows that are otherwise alike
    group: str  # rows with the same may be compared
    ttft_ms: float | None = None
    tpot_ms: float | None = None
    user_ms: float | None = None
    user_kind: str = ""
    tokens_per_s: float | None = None
    low: float | None = None
    high: float | None = None
    rate_source: str = ""
    per_device: float | None = None
    per_user: float | None = None
    msec_per_token: float | None = None
    e2e_s: float | None = None
    memory_mib: float | None = None
    energy_j: float | None = None  # a new token
    mbu: float | None = None
    mfu: float | None = None
    gate: str = ""
    price: int | None = None  # index into the price table
    times: Mapping[str, float] = field(default_factory=dict)
    peaks: Mapping[str, float] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return self.status == "ok"

    @property
    def how(self) -> str:
        """`8 devices, deepspeed-inference tp8, bf16`: where the platform stands beside it."""
        return f"{self.devices} device{'s' if self.devices > 1 else ''}, {self.engine}, {self.dtype}"

    @property
    def configuration(self) -> str:
        """`8 x gaudi2, deepspeed-inference tp8, bf16`."""
        return f"{self.devices} x {self.platform}, {self.engine}, {self.dtype}"


def rows(records: Sequence[Record], prices: Sequence[Price]) -> list[ReportRow]:
    """A row for each configuration and workload that was measured or published, newest first within a platform."""
    accuracy = Accuracy(records)
    found = [_row(cell, accuracy, prices) for cell in cells(records, "measurement")]
    return sorted(found, key=lambda row: (row.model, row.platform, row.devices, row.engine, row.dtype, *_counts(row)))


def bits(dtype: str) -> int:
    """Bits a weight, by the name of its precision: fp32 32, bf16 16, int8-smoothquant 8; an unknown name counts 0."""
    match = re.search(r"\d+", dtype.replace("e4m3", "").replace("e5m2", ""))
    return int(match[0]) if match else 0


def devices_used(record: Record) -> int:
    """Cards that were used; of CPUs, whose places are cores, the sockets that those cores fill."""
    facts, used = record.system.facts, record.system.used
    sockets, cores = facts.get("sockets"), facts.get("cores")
    if record.system.device not in PROCESSORS or not (
        isinstance(sockets, int) and isinstance(cores, int) and sockets and cores
    ):
        return used
    return max(1, min(sockets, math.ceil(used / max(1, cores // sockets))))


def as_columns(found: Iterable[ReportRow]) -> dict[str, Any]:
    """The rows for a page's script: a list a field, texts as indices into one list. Half the size of objects."""
    every = list(found)
    texts: dict[str, int] = {}

    def kept(value: Any) -> Any:
        if isinstance(value, str):
            return texts.setdefault(value, len(texts))
        return float(f"{value:.6g}") if isinstance(value, float) else value

    left: tuple[str, ...] = (
        "doubts",
        "times",
        "peaks",
        "message",
        "source",
        "created",
        "architecture",
        "device",
        "group",
    )
    left += ("per_device", "per_user")  # the script divides
    columns: dict[str, list[Any]] = {one.name: [] for one in fields(ReportRow) if one.name not in left}
    columns |= {"configuration": [], "how": [], "doubts": []}
    for row in every:
        for name, column in columns.items():
            value = getattr(row, name)
            column.append(len(value) if name == "doubts" else value[:12] if name == "id" else value)
    kinds = [name for name, column in columns.items() if column and all(isinstance(value, str) for value in column)]
    packed = {name: [kept(value) for value in column] for name, column in columns.items()}
    return {"texts": list(texts), "text_fields": kinds, "columns": packed}


def _row(cell: Cell, accuracy: Accuracy, prices: Sequence[Price]) -> ReportRow:
    record, values = cell.last, _values(cell)
    asked, devices = record.workload, devices_used(record)
    status, ok = cell.status, cell.status == "ok"
    speed = rate(cell.records) if ok else None
    user, kind = _user(values, asked.batch, asked.new_tokens)
    price = price_of(record, prices)
    wrong = accuracy.fault(record)
    excused = accuracy.excused(record)
    doubts = [*(record.provenance.doubts or ()), *filter(None, [excused])]
    doubts += [
        f"{m.name}: {m.statistic}"
        for m in record.metrics
        if record.provenance.kind == "cited" and "published " in m.statistic
    ]
    return ReportRow(
        id=record.id,
        run=record.run,
        created=record.created[:10],
        platform=record.system.class_id,
        device=record.system.device,
        devices=devices,
        model=record.model.name,
        architecture=record.model.architecture,
        engine=record.engine.label,
        dtype=record.precision.scheme or record.precision.dtype,
        bits=bits(record.precision.scheme or record.precision.dtype),
        workload=(asked if asked.prompts == REPEATED else asked.model_copy(update={"prompts": None})).label,
        batch=asked.batch,
        input=asked.input_length,
        new=asked.new_tokens,
        status="accuracy_fail" if wrong and ok else status,
        message=wrong or record.outcome.message or "",
        accuracy=_accuracy(
            wrong or status == "accuracy_fail", excused, accuracy.known(record), accuracy.independent(record)
        ),
        provenance=record.provenance.kind,
        source=record.provenance.source or "",
        doubts=tuple(doubts),
        definition=_definition(record),
        group=record.key_of("model", "dtype", "workload", "definition")[:10],
        ttft_ms=_times(values.get("ttft"), 1e3),
        tpot_ms=_times(values.get("tpot"), 1e3),
        user_ms=user,
        user_kind=kind,
        tokens_per_s=speed.tokens_per_s if speed else None,
        low=speed.interval[0] if speed and speed.interval else None,
        high=speed.interval[1] if speed and speed.interval else None,
        rate_source=speed.source if speed else "",
        per_device=speed.tokens_per_s / devices if speed else None,
        per_user=1e3 / user if user else None,
        msec_per_token=values.get("msec_per_token"),
        e2e_s=values.get("e2e"),
        memory_mib=_times(values.get("peak_memory"), 2.0**-20),
        energy_j=values.get("energy_per_token"),
        mbu=values.get("mbu"),
        mfu=values.get("mfu"),
        gate=_gate(cell),
        price=list(prices).index(price) if price else None,
        times=_phases(record, values),
        peaks={name: float(rate) for name, rate in (record.system.peak_rates or {}).items()},
    )


def _accuracy(wrong: object, excused: object, known: object, independent: bool) -> str:
    if wrong:
        return "wrong"
    right = "right" if independent else "right, not independent"
    return "waived" if excused else right if known else "not judged"


def _values(cell: Cell) -> dict[str, float]:
    """Median over attempts, by metric name."""
    found: dict[str, list[float]] = {}
    for record in cell.records:
        for metric in record.metrics:
            if metric.value is not None:
                found.setdefault(metric.name, []).append(metric.value)
    return {name: statistics.median(some) for name, some in found.items()}


def _user(values: Mapping[str, float], batch: int | None, new: int | None) -> tuple[float | None, str]:
    if "tpot" in values:
        return values["tpot"] * 1e3, "tpot"
    if "msec_per_token" in values and batch:
        return values["msec_per_token"] * batch, "wall"
    if "e2e" in values and new:
        return values["e2e"] * 1e3 / new, "wall"
    if "s_per_token" in values:
        return values["s_per_token"] * 1e3, "wall"
    return None, ""


def _phases(record: Record, values: Mapping[str, float]) -> dict[str, float]:
    """Seconds of loading, compiling, and of a first and a later pass."""
    found = {name.removesuffix("_s"): values[name] for name in _TIMES if name in values}
    which = record.protocol.get("pass")
    if isinstance(which, str) and "e2e" in values:
        found[which] = values["e2e"]
    return found


def _definition(record: Record) -> str:
    """The protocol and options that a source or an engine adds, in words."""
    named = {**record.protocol, **record.engine.options, "prompts": record.workload.prompts}
    if not {"tpot", "ttft", "e2e", "tokens_per_s", "msec_per_token"} & {metric.name for metric in record.metrics}:
        named |= {m.name: f"{m.value:g} {m.unit}" for m in record.metrics if m.value is not None}
    kept = {name: value for name, value in named.items() if name not in ("published", "warmup", "repetitions", "hook")}
    return ", ".join(f"{name} {value}" for name, value in sorted(kept.items()) if value not in (None, "", False))


def _gate(cell: Cell) -> str:
    """The gate's worst verdict over this row's metrics."""
    order = ("regressed", "waived", "inconclusive", "no_baseline", "pass", "improved", "recorded")
    said = {
        m.gate.verdict if waiver_of(record, m.name) is None else "waived"
        for record in cell.records
        for m in record.metrics
        if m.gate is not None
    }
    return min(said, key=lambda word: order.index(word) if word in order else -1, default="")


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _counts(row: ReportRow) -> tuple[Any, ...]:
    return row.input or 0, row.new or 0, row.batch or 0, row.workload, row.definition, row.id
