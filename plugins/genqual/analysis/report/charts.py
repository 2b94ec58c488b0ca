"""The charts, as Vega-Lite by Altair: each drawn once as static SVG and described for the page's script. No network.

Text and rules are drawn in `currentColor`, so that one SVG reads in light and in dark, on screen and on paper.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import altair as alt
import vl_convert

from genqual.analysis.published.prices import Price
from genqual.analysis.report.decide import READING_MS, dollars
from genqual.analysis.report.rows import ReportRow

STATIC_POINTS: Final = 250  # of a static drawing; the live chart and the table have all
COLOURS: Final = ("#2a78c8", "#cf5417", "#12896a", "#9a55c9", "#a9780a", "#cc3f78", "#5a8500", "#2690a6", "#8c6a4f")
"""Each at least 3:1 on white and on the dark background."""

_WIDTH, _HEIGHT = 440, 300
CHEAPEST: Final = 30  # lines of the cost chart

Point = dict[str, Any]
Drawing = Any  # charts, layers and facets of Altair have no common type that can be configured
Colours = dict[str, str]  # by platform, the same in every chart


_ROWS: Final = alt.Data(name="rows")  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class Chart:
    """One drawing: `svg` without script, `spec` with its data left out under the name `rows`."""

    name: str
    title: str
    reading: str  # one sentence: how to read it
    svg: str
    spec: str
    left_out: int


def charts(rows: Sequence[ReportRow], prices: Sequence[Price]) -> list[Chart]:
    """Every chart that these rows have something for."""
    platforms = sorted({row.platform for row in rows})
    made: list[tuple[str, str, str, list[Point], Callable[[Colours], Drawing]]] = [
        (
            "pareto",
            "Throughput against speed for each reader",
            "Up is more from the hardware, right is a faster stream for each reader; both scales are logarithmic.",
            _points(rows, _pareto),
            _pareto_chart,
        ),
        (
            "lengths",
            "TTFT and TPOT by input length",
            "Lower is better. The dashed line is a fast reader's 100 ms a token.",
            _points(rows, _lengths),
            _lengths_chart,
        ),
        (
            "scaling",
            "Tokens a second by devices",
            "A configuration that scales perfectly doubles with the devices.",
            _scaling(rows),
            _scaling_chart,
        ),
        (
            "phases",
            "Loading, compiling, first pass and later pass",
            "Seconds, on a logarithmic scale.",
            _points(rows, _phases),
            _phases_chart,
        ),
        (
            "roofline",
            "Share of the roofline",
            "MBU: of the measured memory bandwidth, in decode. MFU: of the measured matrix rate, in prefill.",
            _points(rows, _roofline),
            _roofline_chart,
        ),
        (
            "cost",
            "Dollars per million new tokens",
            "Each configuration at its cheapest workload, the 30 cheapest. Bars: 95 % intervals. No price, no bar.",
            _cheapest(_points(rows, lambda row: _cost(row, prices))),
            _cost_chart,
        ),
    ]
    colours = {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(platforms)}
    return [
        _drawn(name, title, reading, points, draw(_seen(points, colours)))
        for name, title, reading, points, draw in made
        if points
    ]


@cache
def library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script without a network, safe inside a script element."""
    # Its stub asks for a snippet; without one the bundle sets window.vegaEmbed, which is what a page needs.
    bundle: str = vl_convert.javascript_bundle(vl_version=_version())  # type: ignore[call-arg]
    return re.sub(r"</(?=script)", r"<\\/", bundle, flags=re.IGNORECASE)


def _version() -> str:
    return "_".join(alt.VEGALITE_VERSION.split(".")[:2])


def _drawn(name: str, title: str, reading: str, points: list[Point], chart: Drawing) -> Chart:
    spec: dict[str, Any] = chart.to_dict()
    spec.pop("datasets", None)
    shown = points[:STATIC_POINTS]
    svg = vl_convert.vegalite_to_svg({**spec, "data": {"name": "rows", "values": shown}}, vl_version=_version())
    return Chart(name, title, reading, svg, json.dumps({**spec, "data": {"name": "rows"}}), len(points) - len(shown))


def _seen(points: Iterable[Point], colours: Colours) -> Colours:
    """The colours of the platforms that a chart has points of."""
    seen = {point["platform"] for point in points}
    return {name: colour for name, colour in colours.items() if name in seen}


def _points(rows: Iterable[ReportRow], make: Callable[[ReportRow], Iterable[Point] | None]) -> list[Point]:
    return [{**_who(row), **point} for row in rows if row.ok for point in make(row) or ()]


def _who(row: ReportRow) -> Point:
    """What every point says of itself; the page's script makes the same."""
    return {
        "platform": row.platform,
        "model": row.model,
        "what": f"{row.model}, {row.configuration}",
        "workload": row.workload,
        "provenance": row.provenance,
    }


def _pareto(row: ReportRow) -> list[Point]:
    if not row.per_device or not row.per_user:
        return []
    return [{"x": row.per_user, "y": row.per_device, "batch": row.batch}]


def _lengths(row: ReportRow) -> list[Point]:
    if row.input is None:
        return []
    line = f"{row.model} {row.platform} {row.engine} {row.dtype} b{row.batch} {row.devices}"
    both = (("TTFT", row.ttft_ms), ("TPOT", row.tpot_ms))
    return [{"x": row.input, "y": value, "metric": name, "line": line} for name, value in both if value]


def _scaling(rows: Sequence[ReportRow]) -> list[Point]:
    """Rows that differ in devices alone, where there are at least two numbers of them."""
    lines: dict[str, list[Point]] = {}
    for row in rows:
        if row.ok and row.tokens_per_s and row.batch:
            engine = re.sub(r" (tp|x)\d+$", "", row.engine)
            line = " ".join((row.model, row.platform, engine, row.dtype, row.workload, row.definition))
            lines.setdefault(line, []).append({**_who(row), "x": row.devices, "y": row.tokens_per_s, "line": line})
    return [point for some in lines.values() if len({point["x"] for point in some}) > 1 for point in some]


def _phases(row: ReportRow) -> list[Point]:
    line = f"{row.model} {row.platform} {row.engine} {row.dtype} {row.definition}"
    return [{"phase": name, "y": value, "line": line} for name, value in row.times.items() if value > 0]


def _roofline(row: ReportRow) -> list[Point]:
    both = (("MBU (decode)", row.mbu), ("MFU (prefill)", row.mfu))
    return [{"metric": name, "y": value} for name, value in both if value is not None]


def _cost(row: ReportRow, prices: Sequence[Price]) -> list[Point]:
    value, low, high = dollars(row, prices)
    if value != value:
        return []
    return [{"y": value, "low": low or value, "high": high or value, "line": f"{row.model}, {row.configuration}"}]


def _cheapest(points: Iterable[Point]) -> list[Point]:
    best: dict[str, Point] = {}
    for point in points:
        if point["line"] not in best or best[point["line"]]["y"] > point["y"]:
            best[point["line"]] = point
    return sorted(best.values(), key=lambda point: float(point["y"]))[:CHEAPEST]


def _pareto_chart(colours: Colours) -> Drawing:
    return _styled(
        alt.Chart(_ROWS)
        .mark_point(size=70, filled=True, opacity=0.85)
        .encode(
            x=_log("x:Q", "tokens/s for each user"),
            y=_log("y:Q", "tokens/s for each device"),
            color=_colour(colours),
            shape=_shape(),
            tooltip=_tip("x", "y", "batch"),
        )
    )


def _lengths_chart(colours: Colours) -> Drawing:
    base = alt.Chart().encode(
        x=_log("x:Q", "input tokens", 2),
        y=_log("y:Q", "ms"),
        color=_colour(colours),
        detail="line:N",
        tooltip=_tip("x", "y"),
    )
    limit = alt.Chart().mark_rule(strokeDash=[4, 4], color="currentColor", opacity=0.6).encode(y=alt.datum(READING_MS))
    layers = alt.layer(base.mark_line(opacity=0.6), base.mark_point(filled=True, size=50), limit)
    return _styled(
        alt.layer(*layers.layer, data=_ROWS)
        .properties(width=205, height=_HEIGHT)
        .facet(column=alt.Column("metric:N", title=None, sort=["TTFT", "TPOT"])),
        sized=False,
    )


def _scaling_chart(colours: Colours) -> Drawing:
    base = alt.Chart(_ROWS).encode(
        x=_log("x:Q", "devices", 2),
        y=_log("y:Q", "tokens/s, all devices"),
        color=_colour(colours),
        detail="line:N",
        tooltip=_tip("x", "y"),
    )
    return _styled(base.mark_line(opacity=0.6) + base.mark_point(filled=True, size=60))


def _phases_chart(colours: Colours) -> Drawing:
    return _styled(
        alt.Chart(_ROWS)
        .mark_point(filled=True, size=70, opacity=0.85)
        .encode(
            x=_log("y:Q", "seconds"),
            y=alt.Y("phase:N", title=None, sort=["load", "compile", "cold", "warm"]),
            color=_colour(colours),
            shape=_shape(),
            tooltip=_tip("phase", "y"),
        ),
        height=180,
    )


def _roofline_chart(colours: Colours) -> Drawing:
    dots = (
        alt.Chart(_ROWS)
        .mark_point(filled=True, size=70, opacity=0.85)
        .encode(
            x=alt.X("y:Q", title="share of what the probe reached", axis=alt.Axis(format=".0%")),
            y=alt.Y("metric:N", title=None),
            color=_colour(colours),
            tooltip=_tip("metric", "y"),
        )
    )
    one = alt.Chart(_ROWS).mark_rule(strokeDash=[4, 4], color="currentColor").encode(x=alt.datum(1))
    return _styled(dots + one, height=140)


def _cost_chart(colours: Colours) -> Drawing:
    base = alt.Chart(_ROWS).encode(
        y=alt.Y("line:N", title=None, sort=alt.EncodingSortField("y", op="min"), axis=alt.Axis(labelLimit=460)),
        color=_colour(colours),
        tooltip=_tip("y", "low", "high"),
    )
    dots = base.mark_point(filled=True, size=60).encode(x=_log("y:Q", "$ per million new tokens"), shape=_shape())
    spread = base.mark_rule(strokeWidth=2).encode(x="low:Q", x2="high:Q")
    return _styled(spread + dots, sized=False).properties(width=560, height=alt.Step(18))


def _log(field: str, title: str, base: int = 10) -> Any:
    kind = alt.Y if title in ("ms", "tokens/s for each device", "tokens/s, all devices") else alt.X
    scale = alt.Scale(type="log", base=base, nice=False, padding=14)
    return kind(field, title=title, scale=scale, axis=alt.Axis(format="~g", tickCount=6))


def _colour(colours: Colours) -> alt.Color:
    scale = alt.Scale(domain=list(colours), range=list(colours.values()))
    return alt.Color("platform:N", scale=scale, legend=alt.Legend(title="hardware", orient="bottom", columns=2))


def _shape() -> alt.Shape:
    kinds = ["measured", "cited", "derived", "simulated"]
    scale = alt.Scale(domain=kinds, range=["circle", "diamond", "cross", "triangle-up"])
    return alt.Shape(
        "provenance:N",
        scale=scale,
        legend=alt.Legend(
            symbolFillColor="currentColor",
            symbolStrokeColor="currentColor",
            title="provenance",
            orient="bottom",
            columns=2,
        ),
    )


def _tip(*names: str) -> list[alt.Tooltip]:
    fields = [alt.Tooltip(f"{name}:N") for name in ("what", "workload", "provenance")]
    return fields + [
        alt.Tooltip(f"{name}:Q", format=".4~g") if name not in ("phase", "metric") else alt.Tooltip(f"{name}:N")
        for name in names
    ]


def _styled(chart: Any, *, sized: bool = True, height: int = _HEIGHT) -> Any:
    if sized:
        chart = chart.properties(width=_WIDTH, height=height)
    ink: Mapping[str, Any] = {
        "labelColor": "currentColor",
        "titleColor": "currentColor",
        "labelFontSize": 12,
        "titleFontSize": 12,
    }
    return (
        chart.configure(background="transparent", font="system-ui, sans-serif", aria=False)
        .configure_axis(
            **ink,
            titleFontWeight="normal",
            domainColor="currentColor",
            tickColor="currentColor",
            gridColor="currentColor",
            gridOpacity=0.12,
        )
        .configure_legend(**ink, titleFontWeight="normal", labelLimit=260)
        .configure_header(**ink)
        .configure_view(stroke=None)
    )
