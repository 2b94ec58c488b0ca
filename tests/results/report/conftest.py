"""One headless Chromium a session, without a network; and the records that the page is made of here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from playwright.sync_api import Browser, sync_playwright

from genqual.analysis.published.prices import prices
from genqual.analysis.published.tables import published
from genqual.analysis.report.page import page
from genqual.records.record import Record
from tests import services
from tests.results.make import record, timing, verdict

FLAGS: Final = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def measured(*, batch: int = 1, length: int = 32, ranks: int = 1, scale: float = 1.0, **fields: Any) -> Record:
    """A Xeon run as the suite records one: every metric of the page, with samples that give intervals."""
    steps = tuple(scale * 0.012 * (1 + 0.01 * n) for n in range(-3, 4))
    rates = tuple(batch / step for step in steps)
    metrics = (
        timing("tpot", steps),
        timing("ttft", tuple(step * length / 8 for step in steps)),
        timing("tokens_per_s", rates, unit="tokens/s", better="higher"),
        timing("msec_per_token", tuple(1e3 * step / batch for step in steps), unit="ms"),
        timing("load_s", (1.5,)),
        timing("mbu", (0.41,), unit="1", better="higher"),
        timing("mfu", (0.07,), unit="1", better="higher"),
        timing("peak_memory", (6e8,), unit="B"),
    )
    known = {
        "metrics": metrics,
        "batch": batch,
        "input_length": length,
        "ranks": ranks,
        "used": ranks,
        "run": "xeon-run",
    }
    return record(**{**known, "command": "pytest -m xeon --benchmark", **fields})


@pytest.fixture(scope="session")
def records() -> list[Record]:
    here = [measured(batch=b, length=i) for b in (1, 4, 16) for i in (32, 128)]
    here += [
        measured(ranks=2, scale=0.6),
        verdict(run="xeon-run"),
        verdict(run="xeon-run", name="cache", word="no_reference"),
    ]
    return [*here, *published()]


@pytest.fixture(scope="session")
def html(records: list[Record]) -> str:
    return page(records, prices(), sources=["results.db", "published"])


@pytest.fixture(scope="session")
def place(html: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "genqual.html"
    path.write_text(html, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The page is what people decide from, so it is looked at in a real browser.

    No longer than the module: it leaves an event loop and processes in this process, which other tests look at.
    """
    chromium = services.browser()
    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=chromium, args=list(FLAGS), timeout=120_000)
        yield started
        started.close()
