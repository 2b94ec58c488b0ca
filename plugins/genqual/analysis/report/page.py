"""Records in, one HTML file out: Jinja2 escapes everything, the page asks no network. Prints and reads nothing else."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from importlib import resources
from pathlib import Path
from typing import Any, Final

import jinja2

import genqual
from genqual.analysis.published.claims import claims
from genqual.analysis.published.prices import Price
from genqual.analysis.published.tables import NAME
from genqual.analysis.report import charts, tables
from genqual.analysis.report.decide import READING_MS, Asked, decide, dollars
from genqual.analysis.report.rows import LIMIT, ReportRow, as_columns, rows
from genqual.analysis.terminal.display import number
from genqual.analysis.terminal.tables import said
from genqual.analysis.terminal.text import clean
from genqual.paths import data_dir
from genqual.records.record import Record

_SECTIONS: Final = (
    ("decision", "Decision"),
    ("charts", "Charts"),
    ("matrix", "msec per token"),
    ("cost", "Prices"),
    ("rows", "Rows"),
    ("comparability", "Comparability"),
    ("claims", "Claims"),
    ("verdicts", "Conformance"),
    ("waivers", "Waivers"),
    ("runs", "Runs"),
    ("sources", "Sources"),
)
_COLUMNS: Final = (
    *(("model", ""), ("hardware", ""), ("engine", ""), ("dtype", ""), ("workload", ""), ("outcome", "")),
    *((name, "n") for name in ("TTFT", "TPOT", "tokens/s", "a device", "a user", "msec/token", "end to end s")),
    *((name, "n") for name in ("memory MiB", "J/token", "MBU", "MFU", "$ per M tokens")),
    *(("gate", ""), ("provenance", ""), ("run", ""), ("record", "")),
)

_BOUNDS: Final = {"exact": "", "about": "≈ ", "at least": "≥ "}


def page(
    records: Sequence[Record],
    prices: Sequence[Price],
    *,
    sources: Sequence[str] = (),
    title: str = "genqual: which hardware for LLM text generation",
    signatures: Mapping[str, str] | None = None,
    today: date | None = None,
    left_out: int = 0,
    detection: Sequence[tuple[str, str, str]] = (),
) -> str:
    """The whole page. `signatures` says of a run how it was signed; `left_out` counts configurations not among these.

    Of more than 2,000 configurations the newest are shown, and the page says how many are not.
    """
    every = rows(records, prices)
    shown = _newest(every)
    decisions = decide(shown, Asked())
    known = {record.run: "not signed" for record in records} | dict(signatures or {})
    for record in records:
        if record.provenance.kind in ("cited", "derived"):
            known[record.run] = "cited"
    runs = tables.runs(records, signatures or {})
    platforms = sorted({row.platform for row in shown})
    matrices = tables.matrices(shown)
    found = claims(records, prices) if any(record.run.startswith(f"{NAME}-bloomz") for record in records) else []
    drawn = charts.charts(shown, prices)
    context: dict[str, Any] = {
        "title": title,
        "version": genqual.__version__,
        "today": (today or datetime.now(UTC).date()).isoformat(),
        "sources": [clean(name) for name in sources],
        "css": _file("page.css"),
        "script": _file("page.js"),
        "library": charts.library() if drawn else "",
        "data": _script_json(_data(shown, prices, drawn)),
        "sections": [one for one in _SECTIONS if one[0] not in _absent(matrices, found)],
        "columns": _COLUMNS,
        "rows": shown,
        "left_out": left_out + len(every) - len(shown),
        "platforms": platforms,
        "reading_ms": READING_MS,
        "decisions": decisions,
        "met": sum(one.best is not None for one in decisions),
        "index": {row.id: place for place, row in enumerate(shown)},
        "selects": _selects(shown),
        "charts": drawn,
        "static_points": charts.STATIC_POINTS,
        "matrices": matrices,
        "priced": [(name, _price(name, shown, prices)) for name in platforms],
        "differences": tables.differences(records),
        "claims": found,
        "verdicts": tables.verdicts(records),
        "detection": detection,
        "waivers": _waivers(today or datetime.now(UTC).date()),
        "runs": runs,
        "run_no": {run.name: place for place, run in enumerate(runs, start=1)},
        "signed": known,
        "source_no": _numbered(row.source for row in shown),
        "doubt_no": _numbered(text for row in shown for text in row.doubts),
        "money": lambda row: _money(row, prices),
    }
    return _template().render(context)


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_file), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {
        "three": _three,
        "share": _share,
        "bare": _bare,
        "bare_share": _bare_share,
        "said": lambda word: said(word).lower(),
    }
    return environment.get_template("page.html")


def _file(name: str) -> str:
    return resources.files("genqual.analysis.report").joinpath(name).read_text(encoding="utf-8")


def _data(shown: Sequence[ReportRow], prices: Sequence[Price], drawn: Sequence[charts.Chart]) -> dict[str, Any]:
    return {
        "rows": as_columns(shown),
        "prices": [
            {"per_hour": price.per_hour, "devices": price.devices, "bound": _BOUNDS[price.bound]} for price in prices
        ],
        "times": [dict(row.times) for row in shown],
        "charts": {chart.name: chart.spec for chart in drawn},
        "cheapest": charts.CHEAPEST,
    }


def _script_json(value: Any) -> str:
    """JSON that can stand in a script element: nothing in it ends the element or opens a comment."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _newest(every: Sequence[ReportRow]) -> list[ReportRow]:
    if len(every) <= LIMIT:
        return list(every)
    kept = {row.id for row in sorted(every, key=lambda row: row.created, reverse=True)[:LIMIT]}
    return [row for row in every if row.id in kept]


def _selects(shown: Sequence[ReportRow]) -> list[tuple[str, str, list[str]]]:
    def counts(name: str) -> list[str]:
        found = {getattr(row, name) for row in shown} - {None}
        return [str(value) for value in sorted(found)]

    return [
        ("model", "Model", sorted({row.model for row in shown})),
        ("platform", "Platform", sorted({row.platform for row in shown})),
        ("input", "Input tokens", counts("input")),
        ("new", "New tokens", counts("new")),
        ("batch", "Batch", counts("batch")),
    ]


def _price(platform: str, shown: Iterable[ReportRow], prices: Sequence[Price]) -> Price | None:
    return next((prices[row.price] for row in shown if row.platform == platform and row.price is not None), None)


def _numbered(texts: Iterable[str]) -> dict[str, int]:
    numbers: dict[str, int] = {}
    for text in texts:
        if text:
            numbers.setdefault(text, len(numbers) + 1)
    return numbers


def _absent(matrices: Sequence[object], found: Sequence[object]) -> set[str]:
    return {name for name, some in (("matrix", matrices), ("claims", found)) if not some}


def _waivers(today: date) -> list[dict[str, Any]]:
    """Known failures that are excused, from every `baselines/waivers/*.toml`."""
    directory: Path = data_dir("baselines") / "waivers"
    found = []
    for path in sorted(directory.glob("*.toml")):
        for one in tomllib.loads(path.read_text(encoding="utf-8")).get("waiver", []):
            expires = one.get("expires")
            found.append(
                {
                    "test": one.get("test", ""),
                    "says": one.get("says", ""),
                    "where": ", ".join(
                        [one.get("class", "*"), *(f"{k} {v}" for k, v in one.get("versions", {}).items())]
                    ),
                    "issue": one.get("issue", ""),
                    "expires": expires or "never",
                    "expired": isinstance(expires, date) and expires < today,
                }
            )
    return found


def _three(value: float | None) -> str:
    return "–" if value is None else number(value)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{number(value * 100)} %"


def _bare(value: float | None) -> str:
    return "" if value is None else number(value)


def _bare_share(value: float | None) -> str:
    return "" if value is None else f"{number(value * 100)} %"


def _money(row: ReportRow, prices: Sequence[Price]) -> str:
    """As the page's script writes it."""
    value, low, high = dollars(row, prices)
    if math.isnan(value):
        return "no price"
    spread = f" [{number(low)}–{number(high)}]" if low is not None and high is not None else ""
    return f"{_BOUNDS[prices[row.price or 0].bound]}${number(value)}{spread}"
