"""The published tables against a second transcription of the posts, made by hand and apart from the TOML files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from genqual.analysis.published.claims import FIRST, SECOND, claims
from genqual.analysis.published.prices import price_of, prices, rate
from genqual.analysis.published.tables import doubts, published
from genqual.errors import BadInput
from genqual.records.record import Record
from genqual.storage.sources import load
from tests.results.make import record, timing
from tests.results.test_cli import ran

# batch 1, 8, 16, 32, 64, 128, 256, 512; an empty cell is no record
BLOOM = """
accelerate           bf16 8   230.38 31.78 17.84 10.89 oom
accelerate           int8 8   286.56 40.92 22.65 13.27 oom
deepspeed-inference  fp16 8   44.02 5.70 3.01 1.68 1.00 0.69 oom
deepspeed-inference  int8 8   89.09 11.44 5.88 3.09 1.71 1.02 0.71 oom
deepspeed-zero       bf16 8   283 34.88 oom
accelerate           int8 4   284.15 40.14 21.97 oom
deepspeed-inference  int8 4   156.51 20.11 10.38 5.50 2.96 oom
"""
BLOOMZ = """
176b 8  3.717 4.402 /      3.103 4.402 /
7b   8  0.737 2.417 3.029  0.734 2.417 3.321
7b   1  1.066 2.119 2.865  0.772 2.119 2.387
"""
BATCHES = (1, 8, 16, 32, 64, 128, 256, 512)


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return published()


def number(one: Record) -> float | str:
    return one.metrics[0].value or "none" if one.outcome.status == "ok" else one.outcome.status


@pytest.mark.parametrize("line", BLOOM.strip().splitlines())
def test_the_bloom_tables(records: list[Record], line: str) -> None:
    engine, dtype, devices, *cells = line.split()
    found = {
        r.workload.batch: number(r)
        for r in records
        if (r.model.name, r.engine.name, r.precision.dtype, r.system.used)
        == ("bloom-176b", engine, dtype, int(devices))
        and r.provenance.kind == "cited"
        and (r.outcome.status == "oom" or r.metrics[0].name == "msec_per_token")
        and r.workload.new_tokens == 100
    }
    wanted = [cell if cell == "oom" else float(cell) for cell in cells]
    assert found == dict(zip(BATCHES, wanted, strict=False))


@pytest.mark.parametrize("line", BLOOMZ.strip().splitlines())
def test_the_bloomz_tables(records: list[Record], line: str) -> None:
    size, devices, *cells = line.split()
    columns = [(hardware, g) for g in (FIRST, SECOND) for hardware in ("gaudi2", "a100-80gb", "gaudi1")]
    found = {
        (r.system.class_id, r.protocol["generation"]): number(r)
        for r in records
        if (r.model.name, r.system.used) == (f"bloomz-{size}", int(devices)) and "preview" not in str(r.protocol)
    }
    wanted = ["skipped" if cell == "/" else float(cell) for cell in cells]
    assert found == dict(zip(columns, wanted, strict=True))


def test_the_loading_times(records: list[Record]) -> None:
    found = Counter(number(r) for r in records if r.metrics and r.metrics[0].name == "load_s")
    assert found == Counter([121.0, 61.0, 60.0, 662.0, 462.0])


def test_llama_2_keeps_ranges_and_bounds_as_such(records: list[Record]) -> None:
    found = {
        (r.system.class_id, r.model.name, r.metrics[0].statistic.split()[-1], r.metrics[0].value)
        for r in records
        if r.run == "published-llama2-intel" and r.metrics
    }
    assert found == {
        ("gaudi2", "llama2-7b", "range", 0.0090),
        ("gaudi2", "llama2-7b", "range", 0.0122),
        ("gaudi2", "llama2-13b", "range", 0.0155),
        ("gaudi2", "llama2-13b", "range", 0.0204),
        ("xeon-4th-gen-socket", "llama2-7b", "bound", 0.100),
        ("xeon-4th-gen-socket", "llama2-13b", "bound", 0.100),
        ("gpu-max-1550-tile", "llama2-7b", "bound", 0.020),
        ("gpu-max-1550-tile", "llama2-13b", "range", 0.0292),
        ("gpu-max-1550-tile", "llama2-13b", "range", 0.0338),
    }


def test_nothing_is_called_measured_and_what_nobody_ran_is_derived(records: list[Record]) -> None:
    assert {r.provenance.kind for r in records} == {"cited", "derived"}
    derived = {(r.model.name, number(r)) for r in records if r.provenance.kind == "derived"}
    assert derived == {("bloom-176b", 4.36), ("bloom-176b", 352e9)}
    assert all("https://" in (r.provenance.source or "") for r in records)


@pytest.mark.parametrize(
    ("words", "count"),
    [
        ("equals 44.02 ms x 100", 2),
        ("8832 and 8821 ms", 3),
        ("max_length 100", 44),
        ("fits batch 40", 1),
        ("on four fits 128", 1),
        ("feeds every rank the same input", 3),
        ("hypothetical", 1),
        ("a user's report", 1),
        ("HPU graphs ran", 6),
        ("padding after EOS", 44),
        ("also says SynapseAI 1.9", 6),
        ("a preview", 1),
        ("batch and output length are not stated", 6),
    ],
)
def test_every_doubt_stands_with_its_records(records: list[Record], words: str, count: int) -> None:
    assert sum(any(words in text for text in doubts(r)) for r in records) == count


def test_the_same_tables_give_the_same_records() -> None:
    assert [r.id for r in published()] == [r.id for r in published()]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("value = 230.38", 'value = "fast"'), "group 1, cell 1: value"),
        pytest.param(
            ("value = 230.38", "value = 230.38, colour = 3"),
            "x.toml, group 1, cell 1: unknown key 'colour' .*known are source",
            id="-unknown field colour",
        ),
        (("batch = 1, value = 230.38", "batch = 1"), "give a value, or the outcome"),
        (('engine = "accelerate"\n', "", 1), "'engine' is missing"),
        (('metric = "msec"', 'metric = "no"'), "metric = 'no': not one that the file has; known are"),
        (('title = "', 'titel = "'), "unknown key 'titel', did you mean title"),
        (("[metrics.", "[metrcs."), "unknown key 'metrcs', did you mean metrics"),
        (("[[group]]", "[[group"), "not a published table"),
        (("batch = 8, value = 31.78", "batch = 1, value = 230.38"), "hold a cell twice"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_flaw_in_a_table_is_named(change: Any, said: str, tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "baselines/published/bloom-176b.toml").read_text()
    (tmp_path / "x.toml").write_text(text.replace(*change))
    with pytest.raises(BadInput, match=said.replace("[", r"\[")):
        published(tmp_path)


# The figures as the posts print them, and how a person with a pocket calculator gets them.
CLAIMS = {
    "1.2x": ("1.18x", 4.402 / 3.717),
    "1.42x": ("1.42x", 4.402 / 3.103),
    "3x": ("2.88x", 2.119 / 0.737),
    "2.89x": ("2.89x", 2.119 / 0.734),
    "3.29x": ("3.29x", 2.417 / 0.734),
    "2.74x": ("2.74x", 2.119 / 0.772),
    "37.21 %": ("37.21 %", 100 * 1.066 / 2.865),
    "24.33 %": ("24.33 %", 100 * 0.737 / 3.029),
    "0.69 ms": ("0.69 ms", 8832 / (128 * 100)),
}


def test_the_claims_come_out_of_their_rows(records: list[Record]) -> None:
    found = {claim.name: claim for claim in claims(records, prices())}
    ids = {r.id for r in records}
    assert [found[name].shown for name in CLAIMS] == [shown for shown, _ in CLAIMS.values()]
    assert [found[name].value for name in CLAIMS] == pytest.approx([value for _, value in CLAIMS.values()])
    assert all(len(claim.pair) == 2 and {side.record for side in claim.pair} <= ids for claim in found.values())
    assert found["2.89x"].flags == ("unlike: 8 devices against 1",)
    assert not any("unlike" in flag for name in ("3.29x", "2.74x") for flag in found[name].flags)


def test_dl1_is_cheaper_for_7b_by_the_posts_own_prices(records: list[Record]) -> None:
    found = [claim.value for claim in claims(records, prices()) if claim.name.startswith("DL1")]
    # A100's latency x over 30 $/h against the first Gaudi's x about 13 $/h; shares of an instance cancel
    wanted = [s * 30 / (g * 13) for s, g in ((2.417, 3.029), (2.119, 2.865), (2.417, 3.321), (2.119, 2.387))]
    assert found == pytest.approx(wanted)
    assert min(found) > 1.6


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"sqlite:///{tmp_path}/all.db"
    assert ran("published", "load", url) == 0
    assert ran("published", "load", url) == 0
    assert "80 published records, 80 new there" in (text := capsys.readouterr().out)
    assert "80 published records, 0 new there" in text
    assert len(load(url)) == 80
    assert ran("published", "claims") == 0
    text = capsys.readouterr().out
    assert "2.89x: 2.89x = 2.119 s / 0.734 s" in text
    assert "! unlike: 8 devices against 1" in text
    assert ran("published", "claims", "--json") == 0
    assert '"shown": "37.21 %"' in capsys.readouterr().out
    assert ran("published", "list") == 0
    assert "OOM" in (text := capsys.readouterr().out)
    assert "probably the BLOOM post's measurement reused" in text


def test_a_price_is_a_share_of_an_instance_or_whole_ones() -> None:
    (dl1,) = [one for one in prices() if one.sku == "dl1.24xlarge"]
    assert (dl1.of(1), dl1.of(8), dl1.of(9)) == (13 / 8, 13, 26)


def test_no_price_is_none_and_the_newest_counts() -> None:
    table = prices()
    assert price_of(record(class_id="gaudi2"), table) is None
    assert price_of(record(class_id="xeon-6-2c"), table) is None
    (h100,) = [one for one in table if "h100" in one.classes[0]]
    newer = h100.model_copy(update={"sku": "new", "as_of": h100.as_of.replace(2026)})
    found = price_of(record(class_id="cuda-nvidia-h100-80gb-hbm3"), (newer, h100))
    assert found is not None
    assert found.sku == "new"


def test_the_rate_is_the_throughput_that_was_measured() -> None:
    samples = (98.0, 99.0, 100.0, 101.0, 102.0)
    found = rate([record(metrics=(timing("tokens_per_s", samples, unit="tokens/s", better="higher", value=100.0),))])
    assert found is not None
    assert found.tokens_per_s == 100
    assert found.dollars(36) == pytest.approx(100)  # a cent a second, 100 tokens a second
    low, high = found.dollars_interval(36) or (0, 0)
    assert 98 <= low < 100 < high <= 1e4 / 98 + 1e-9
    total = rate([record(batch=2, new_tokens=100, metrics=(timing("e2e", (4.0,)),))])
    assert total is not None
    assert (total.tokens_per_s, total.interval) == (50, None)
    msec = rate([record(metrics=(timing("msec_per_token", (0.5,), unit="ms"),))])
    assert msec is not None
    assert msec.tokens_per_s == 2000
    assert rate([record(metrics=(timing("tpot"),))]) is None


@pytest.mark.parametrize(
    ("line", "said"),
    [
        pytest.param(
            "per_hour = -1",
            r"\[price 1\] per_hour = -1: must be greater than 0",
            id="per_hour = -1-both must be above 0",
        ),
        pytest.param(
            "per_hour = true", r"per_hour = True: must be a valid number", id="per_hour = true-per_hour is True"
        ),
        pytest.param(
            'bound = "roughly"',
            r"bound = 'roughly': must be 'exact', 'about' or 'at least'",
            id="bound = \"roughly\"-bound 'roughly'",
        ),
        pytest.param(
            "colour = 1", r"unknown key 'colour' \(known are sku, provider", id="colour = 1-unknown field colour"
        ),
        pytest.param('as_of = "today"', r"as_of = 'today': must be a date", id="as_of = \"today\"-as_of is 'today'"),
        ("devices = 0", r"devices = 0: must be greater than or equal to 1"),
        ("per_hour = nan", r"per_hour = nan: must be"),
        ("per_hour = inf", r"per_hour = inf: must be"),
        ("classes = [1]", r"classes, element 1 = 1: must be a text in quotes"),
    ],
)
def test_a_price_table_with_a_flaw_is_refused(line: str, said: str, tmp_path: Path) -> None:
    good = (
        'sku = "a"\nprovider = "b"\nterm = "c"\nper_hour = 1\nbound = "exact"\ndevices = 8\nclasses = ["x"]\n'
        'scope = "d"\nas_of = 2026-01-01\nsource = "e"\n'
    )
    name = line.split(" = ")[0]
    kept = "".join(row + "\n" for row in good.splitlines() if not row.startswith(f"{name} ="))
    (tmp_path / "p.toml").write_text(f"[[price]]\n{kept}{line}\n")
    with pytest.raises(BadInput, match=said):
        prices(tmp_path / "p.toml")


def test_every_shipped_price_names_a_public_source() -> None:
    assert all(one.source.startswith("https://") and one.scope for one in prices())
