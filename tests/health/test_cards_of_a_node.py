"""The checks of a node on cards: simulated Gaudis, each with a process of its own; a defective one is named."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from genqual.cases import Json
from genqual.cli import genqual
from genqual.devices import simulated
from genqual.devices.registry import device
from genqual.health.checks.answers import KnownAnswers
from genqual.health.checks.base import Check, Node
from genqual.health.checks.cards import cards_of
from genqual.health.checks.generation import Generation
from genqual.health.checks.quorum import Quorum
from genqual.health.checks.rank_steps import RankSteps
from genqual.health.checks.repeats import Repeats
from genqual.health.checks.siblings import Stragglers
from genqual.health.finding import Finding, Outcome

ROOT = Path(__file__).resolve().parents[2]
CARD = "PCI:0000:{:02x}:00.0"
FAULT = "tests.health.quorum_faults:defective_card"


@pytest.fixture(autouse=True)
def _cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    monkeypatch.setenv(simulated.VARIABLE, "")  # so that what `switch_on` sets is taken back
    simulated.switch_on()


def found(tmp_path: Path, check: Check, seconds: float = 0.0, *, cards: int = 2) -> dict[str, Finding]:
    """What `check` says on the first `cards` simulated cards, by entity."""
    node = Node("hpu", tuple(sorted(os.sched_getaffinity(0))), tmp_path, cards=cards_of(device("hpu"))[:cards])
    return {one.entity: one for one in check.run(node, seconds)}


def on(card: int, **more: Json) -> tuple[str, dict[str, Json]]:
    return FAULT, {"card": card, **more}


def test_each_card_is_shown_to_its_own_process_only() -> None:
    seen = [(one.entity, one.environment["HABANA_VISIBLE_MODULES"]) for one in cards_of(device("hpu"))]
    assert seen == [(CARD.format(number), str(number)) for number in range(8)]
    assert cards_of(device("cpu")) == ()


def test_products_are_known_on_each_card(tmp_path: Path) -> None:
    fine = found(tmp_path, KnownAnswers(), 10.0)
    assert set(fine) == {f"{CARD.format(card)}, {dtype}" for card in (0, 1) for dtype in ("fp32", "bf16")}
    assert {one.outcome for one in fine.values()} == {Outcome.OK}, fine
    wrong = found(tmp_path, KnownAnswers(("--inject", "5")), 10.0, cards=1)
    assert {one.outcome for one in wrong.values()} == {Outcome.BAD}


def test_a_card_that_is_wrong_again_and_again_is_named_and_its_sibling_is_not(tmp_path: Path) -> None:
    said = found(tmp_path, Repeats(fault=on(1)))
    assert {name: one.outcome for name, one in said.items()} == {
        **{f"{CARD.format(0)}, first run": Outcome.OK, f"{CARD.format(0)} rank 0": Outcome.OK},
        **{f"{CARD.format(1)}, first run": Outcome.OK, f"{CARD.format(1)} rank 0": Outcome.BAD},
    }, said


def test_the_card_that_differs_from_most_is_named(tmp_path: Path) -> None:
    (wrong,) = found(tmp_path, Quorum(on(1)), cards=3).values()
    assert (wrong.outcome, wrong.entity) == (Outcome.BAD, CARD.format(1)), wrong
    (fine,) = found(tmp_path, Quorum(), cards=2).values()
    assert (fine.outcome, fine.entity) == (Outcome.OK, "cards"), fine
    assert fine.fingerprint is not None


def test_a_slow_card_is_named(tmp_path: Path) -> None:
    """By half: two processes that stand for cards share cores with all that runs here."""
    said = found(tmp_path, Stragglers({1: 0.5}))
    assert [name for name, one in said.items() if one.outcome is Outcome.BAD] == [CARD.format(1)], said
    (alone,) = found(tmp_path, Stragglers(), cards=1).values()
    assert alone.outcome is Outcome.UNAVAILABLE


def test_what_no_card_is_asked_yet_is_unavailable(tmp_path: Path) -> None:
    (said,) = found(tmp_path, RankSteps()).values()
    assert said.outcome is Outcome.UNAVAILABLE


def test_generation_is_judged_on_each_card(tmp_path: Path) -> None:
    said = found(tmp_path, Generation(), 60.0)
    assert {name: one.outcome for name, one in said.items()} == {CARD.format(card): Outcome.OK for card in (0, 1)}, said


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--device", "hpu", "--simulate", "--cores", "0"), "HABANA_VISIBLE_MODULES"),
        (("--device", "xpu"), "absent"),
        (("--device", "cuda", "--simulate"), "--device hpu"),
    ],
)
def test_what_cannot_be_asked_of_cards_is_told(words: tuple[str, ...], text: str) -> None:
    done = CliRunner().invoke(genqual, ["node", *words])
    assert done.exit_code == 2, done.output
    assert text in done.stderr


@pytest.mark.heavy
def test_a_level_on_simulated_cards_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(simulated.CARDS, "2")
    file = tmp_path / "node.json"
    done = CliRunner().invoke(genqual, ["node", "--device", "hpu", "--simulate", "--level", "2", "--json", str(file)])
    told = json.loads(file.read_text())
    assert done.exit_code == 0, done.output
    assert told["hardware_class"].startswith("simulated-")
    assert {one["entity"] for one in told["findings"] if one["check"] == "generation"} == {
        CARD.format(0),
        CARD.format(1),
    }
