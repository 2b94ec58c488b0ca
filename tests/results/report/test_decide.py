from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from genqual.analysis.published.prices import Price, prices
from genqual.analysis.published.tables import published
from genqual.analysis.report.decide import Asked, decide, dollars, refusal
from genqual.analysis.report.rows import ReportRow, bits, devices_used, rows
from genqual.records.record import Record
from tests.results.make import record, timing, verdict
from tests.results.report.conftest import measured


def made(*records: Record) -> list[ReportRow]:
    return rows(records, prices())


def cited() -> list[ReportRow]:
    return rows(published(), prices())


def test_the_best_of_a_platform_gives_most_tokens_a_device() -> None:
    found = made(measured(batch=1), measured(batch=4), measured(batch=4, scale=9.0, length=128))
    (one,) = decide(found, Asked())
    assert one.best is not None
    assert (one.best.batch, one.best.input) == (4, 32)
    assert one.best.tokens_per_s == pytest.approx(4 / 0.012)
    assert (one.why, one.looked_at) == ("1 TPOT over the limit", 3)


def test_two_devices_must_earn_their_place() -> None:
    one = measured(device="cuda", class_id="card")
    two = measured(device="cuda", class_id="card", ranks=2, scale=0.6)  # 1.67 times as fast on two
    (found,) = decide(made(one, two), Asked())
    assert found.best is not None
    assert found.best.devices == 1


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (Asked(tpot_ms=5), "1 TPOT over the limit"),
        (Asked(ttft_ms=5), "1 TTFT over the limit"),
        (Asked(bits=32), "1 below the precision floor"),
    ],
)
def test_what_does_not_meet_a_limit_says_which(asked: Asked, why: str) -> None:
    (one,) = decide(made(measured()), asked)
    assert (one.best, one.why) == (None, why)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"status": "oom", "metrics": ()}, "out of memory"),
        ({"status": "skipped", "metrics": ()}, "skipped"),
        ({"provenance": "simulated"}, "simulated"),
        ({"metrics": (timing("ttft"),)}, "TPOT unknown"),
        ({"metrics": (timing("tpot"),)}, "TTFT unknown"),
    ],
)
def test_what_cannot_qualify_says_why(change: dict[str, Any], why: str) -> None:
    (row,) = made(record(**change))
    assert refusal(row, Asked(ttft_ms=1000 if why == "TTFT unknown" else None)) == why


def test_wrong_text_never_qualifies_however_fast() -> None:
    found = made(measured(), verdict(word="fail"))
    assert [(row.status, row.accuracy) for row in found] == [("accuracy_fail", "wrong")]
    (one,) = decide(found, Asked())
    assert (one.best, one.why) == (None, "1 wrong text")


@pytest.mark.parametrize(("independent", "said"), [(True, "right"), (False, "right, not independent")])
def test_what_is_right_by_transformers_word_says_so(independent: bool, said: str) -> None:
    found = made(measured(), verdict(independent=independent), verdict(name="finite"))
    assert [row.accuracy for row in found if row.accuracy != "not judged"] == [said]


def test_filters_keep_what_a_source_leaves_out() -> None:
    asked = Asked(model="bloom-176b", input=128, batch=64)
    found = {one.platform: one.best for one in decide(cited(), asked)}
    best = found["a100-80gb"]
    assert best is not None
    assert (best.engine, best.dtype, best.batch, best.input) == ("deepspeed-inference tp8", "fp16", 64, None)


def test_time_a_token_of_a_reader_from_what_was_published() -> None:
    """1.00 ms a token of a batch of 64 is 64 ms for each reader; 4.402 s for 100 tokens is 44.02 ms."""
    by = {(row.model, row.platform, row.batch, row.dtype, row.devices): row for row in cited() if row.ok}
    bloom = by["bloom-176b", "a100-80gb", 64, "fp16", 8]
    assert (bloom.user_ms, bloom.user_kind) == (64.0, "wall")
    assert bloom.per_device == pytest.approx(1000 / 8)
    bloomz = by["bloomz-176b", "a100-80gb", 1, "16-bit", 8]
    assert bloomz.user_ms == pytest.approx(44.02)


def test_dollars_by_hand() -> None:
    price = Price(
        sku="a",
        provider="b",
        term="c",
        per_hour=32.0,
        bound="exact",
        devices=8,
        classes=("xeon-*",),
        scope="d",
        as_of=date(2026, 1, 1),
        source="https://e",
    )
    (row,) = rows([measured(batch=4)], [price])
    value, low, high = dollars(row, [price], 0.5)
    assert value == pytest.approx(32 / 8 / 0.5 / 3600 / (4 / 0.012) * 1e6)
    assert low is not None
    assert high is not None
    assert low < value < high


def test_a_row_without_a_price_has_no_dollars() -> None:
    (row,) = made(measured())
    value, *ends = dollars(row, prices())
    assert value != value
    assert ends == [None, None]


@pytest.mark.parametrize(
    ("dtype", "count"),
    [
        ("fp32", 32),
        ("bf16", 16),
        ("16-bit", 16),
        ("int8", 8),
        ("int8-smoothquant", 8),
        ("fp8-e4m3", 8),
        ("int4", 4),
        ("auto", 0),
    ],
)
def test_bits_of_a_precision(dtype: str, count: int) -> None:
    assert bits(dtype) == count


@pytest.mark.parametrize(
    ("used", "facts", "devices"),
    [
        (2, {"sockets": 1, "cores": 2}, 1),
        (1, {"sockets": 2, "cores": 112}, 1),
        (56, {"sockets": 2, "cores": 112}, 1),
        (57, {"sockets": 2, "cores": 112}, 2),
        (4, {}, 4),
    ],
)
def test_cores_fill_sockets(used: int, facts: dict[str, Any], devices: int) -> None:
    one = record(used=used)
    system = one.system.model_copy(update={"facts": facts})
    assert devices_used(one.model_copy(update={"system": system})) == devices


def test_cards_are_counted_as_they_are() -> None:
    assert devices_used(record(device="hpu", used=8)) == 8


def test_only_measured_rows_when_asked() -> None:
    found = [*cited(), *made(measured())]
    assert {one.platform for one in decide(found, Asked(cited=False))} == {"xeon-6-2c"}
