"""The published claims as derived figures, each with the pair of rows it comes from. Pure but for our own tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from genqual.analysis.published.prices import Price, price_of, rate
from genqual.errors import BadInput
from genqual.records.record import Record

FIRST: Final = "SynapseAI 1.8, Transformers 4.27.1"
SECOND: Final = "Optimum Habana 1.6, SynapseAI 1.10"


@dataclass(frozen=True, slots=True)
class ClaimedSide:
    """One row of a pair: what ran where, and the number that the claim takes from it."""

    what: str
    value: float
    unit: str
    source: str
    record: str  # id


@dataclass(frozen=True, slots=True)
class Claim:
    """A figure recomputed from two rows: `value` in `unit`, by `formula`; `flags` say what is unlike in the pair."""

    name: str
    says: str
    formula: str
    value: float
    unit: str
    pair: tuple[ClaimedSide, ...]
    flags: tuple[str, ...] = ()

    @property
    def shown(self) -> str:
        """As the sources print it: 1.18x, 37.21 %, 0.69 ms."""
        return f"{self.value:.2f}{'x' if self.unit == 'x' else f' {self.unit}'}"


def claims(records: Sequence[Record], prices: Sequence[Price]) -> list[Claim]:
    """Every claim of the published posts, recomputed. Raises BadInput where a table no longer has its row."""
    rows = _Rows(records)
    return [
        _times(rows, "1.2x", "Gaudi2 over A100 on BLOOMZ-176B, eight devices", "bloomz-176b", 8, 8, FIRST),
        _times(rows, "1.42x", "the same with newer software", "bloomz-176b", 8, 8, SECOND),
        _times(rows, "3x", "Gaudi2 over A100 on BLOOMZ-7B, first software", "bloomz-7b", 1, 8, FIRST),
        _times(rows, "2.89x", "Gaudi2 over A100 on BLOOMZ-7B", "bloomz-7b", 1, 8, SECOND),
        _times(rows, "3.29x", "2.89x like for like: eight against eight", "bloomz-7b", 8, 8, SECOND),
        _times(rows, "2.74x", "2.89x like for like: one against one", "bloomz-7b", 1, 1, SECOND),
        _share(rows, "37.21 %", "Gaudi2's latency of first-generation Gaudi's, one device", 1),
        _share(rows, "24.33 %", "Gaudi2's latency of first-generation Gaudi's, eight devices", 8),
        _cheaper(rows, prices, 8, FIRST),
        _cheaper(rows, prices, 1, FIRST),
        _cheaper(rows, prices, 8, SECOND),
        _cheaper(rows, prices, 1, SECOND),
        _msec(rows),
    ]


class _Rows:
    def __init__(self, records: Iterable[Record]) -> None:
        self._records = [record for record in records if record.provenance.kind == "cited"]

    def bloomz(self, class_id: str, model: str, used: int, generation: str) -> Record:
        wanted = (class_id, model, used, generation)
        return self._one(
            wanted,
            (
                r
                for r in self._records
                if (r.system.class_id, r.model.name, r.system.used, r.protocol.get("generation")) == wanted
            ),
        )

    def bloom(self, metric: str, quoted: str | None) -> Record:
        wanted = ("deepspeed-inference", "fp16", 128, metric, quoted)
        return self._one(
            wanted,
            (
                r
                for r in self._records
                if r.model.name == "bloom-176b"
                and r.metrics
                and (
                    r.engine.name,
                    r.precision.dtype,
                    r.workload.batch,
                    r.metrics[0].name,
                    r.protocol.get("quoted"),
                )
                == wanted
            ),
        )

    @staticmethod
    def _one(wanted: tuple[object, ...], found: Iterable[Record]) -> Record:
        rows = list(found)
        if len(rows) != 1 or rows[0].outcome.status != "ok":
            raise BadInput(f"the published tables have {len(rows)} rows for {wanted}, not one: reinstall genqual")
        return rows[0]


def _side(record: Record) -> ClaimedSide:
    metric = record.metrics[0]
    what = f"{record.model.name} on {record.system.used} x {record.system.class_id}, {record.engine.name}"
    return ClaimedSide(what, metric.value or 0.0, metric.unit, record.provenance.source or "", record.id)


def _times(rows: _Rows, name: str, says: str, model: str, a100s: int, gaudis: int, generation: str) -> Claim:
    theirs, ours = rows.bloomz("a100-80gb", model, a100s, generation), rows.bloomz("gaudi2", model, gaudis, generation)
    a, b = _side(theirs), _side(ours)
    flags = [] if a100s == gaudis else [f"unlike: {gaudis} devices against {a100s}"]
    if model == "bloomz-176b":
        flags.append("A100's number is probably an earlier post's, so not independent")
    return Claim(
        name, says, f"{a.value:g} s / {b.value:g} s ({generation})", a.value / b.value, "x", (a, b), tuple(flags)
    )


def _share(rows: _Rows, name: str, says: str, used: int) -> Claim:
    new, old = (_side(rows.bloomz(class_id, "bloomz-7b", used, FIRST)) for class_id in ("gaudi2", "gaudi1"))
    return Claim(
        name, says, f"{new.value:g} s / {old.value:g} s ({FIRST})", new.value / old.value * 100, "%", (new, old)
    )


def _cheaper(rows: _Rows, prices: Sequence[Price], used: int, generation: str) -> Claim:
    """$ per million tokens on A100 over that on a DL1; where A100's price is a lower bound, so is this."""
    theirs = rows.bloomz("a100-80gb", "bloomz-7b", used, generation)
    dl1 = rows.bloomz("gaudi1", "bloomz-7b", used, generation)
    sides, flags = [], []
    for record in (theirs, dl1):
        price, speed = price_of(record, prices), rate([record])
        if price is None or speed is None:
            raise BadInput(f"no price for {record.system.class_id} in the price table: the DL1 claim needs it")
        dollars = speed.dollars(price.of(used))
        side = _side(record)
        sides.append(
            ClaimedSide(f"{side.what}; {price.name}", dollars, "$ per million tokens", side.source, side.record)
        )
        if price.bound != "exact":
            flags.append(f"{record.system.class_id}: the price is {price.bound} ${price.per_hour:g}/h")
        if used < price.devices:
            flags.append(f"{record.system.class_id}: {used} of the instance's {price.devices} devices, its share")
    return Claim(
        "DL1 is cheaper for 7B",
        f"first-generation Gaudi against A100, {'eight devices' if used == 8 else 'one device'}",
        f"{sides[0].value:.0f} / {sides[1].value:.0f} $ per million tokens ({generation})",
        sides[0].value / sides[1].value,
        "x",
        tuple(sides),
        tuple(flags),
    )


def _msec(rows: _Rows) -> Claim:
    wall, cell = rows.bloom("e2e", "first"), rows.bloom("msec_per_token", None)
    asked = wall.workload
    tokens = (asked.batch or 0) * (asked.new_tokens or 0)
    seconds = _side(wall)
    return Claim(
        "0.69 ms",
        "BLOOM-176B, msec per token at batch 128",
        f"{seconds.value * 1e3:.0f} ms / ({asked.batch} x {asked.new_tokens})",
        seconds.value * 1e3 / tokens,
        "ms",
        (seconds, _side(cell)),
        ("the output also says 8821 ms, which gives the same 0.69",),
    )
