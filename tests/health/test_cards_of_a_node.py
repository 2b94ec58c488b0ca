"""The checks of a node on cards: simulated Gaudis, each with a process of its own; a defective one is named."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from genqual import digest
from genqual.cases import Json
from genqual.cli import genqual
from genqual.devices import simulated
from genqual.devices.base import Placement
from genqual.devices.registry import device
from genqual.health.checks import quorum, siblings, soak
from genqual.health.checks.answers import KnownAnswers
from genqual.health.checks.base import Check, Node
from genqual.health.checks.cards import cards_of
from genqual.health.checks.generation import Generation
from genqual.health.checks.quorum import Quorum
from genqual.health.checks.rank_steps import RankSteps
from genqual.health.checks.repeats import Repeats
from genqual.health.checks.siblings import Stragglers
from genqual.health.finding import Finding, Outcome

CARD = "PCI:0000:{:02x}:00.0"
FAULT = "tests.health.quorum_faults:defective_card"


@pytest.fixture(autouse=True)
def _cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(simulated.VARIABLE, "")  # so that what `switch_on` sets is taken back
    simulated.switch_on()


def found(tmp_path: Path, check: Check, seconds: float = 0.0, *, cards: int = 2) -> dict[str, Finding]:
    """What `check` says on the first `cards` simulated cards, by entity."""
    return {one.entity: one for one in check.run(on_cards(tmp_path, cards), seconds)}


def on_cards(tmp_path: Path, cards: int) -> Node:
    return Node("hpu", tuple(sorted(os.sched_getaffinity(0))), tmp_path, cards=cards_of(device("hpu"))[:cards])


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


def test_a_card_that_cannot_be_asked_hides_nothing_of_the_others(tmp_path: Path) -> None:
    """Of three cards the first fails as it loads, and the last is wrong: both are named."""
    node = on_cards(tmp_path, 4)
    broken = replace(node.cards[0], placement=Placement(env=({"HABANA_VISIBLE_MODULES": "0", "PYTHONPATH": ""},)))
    node = replace(node, cards=(broken, *node.cards[1:]))
    said = {one.entity: one.outcome for one in Quorum(on(3)).run(node, 0.0)}
    assert said == {CARD.format(0): Outcome.UNKNOWN, CARD.format(3): Outcome.BAD}
    said = {one.entity: one.outcome for one in Repeats(fault=on(3)).run(node, 0.0)}
    assert said[CARD.format(0)] is Outcome.BAD, "lost"
    assert said[f"{CARD.format(3)} rank 0"] is Outcome.BAD
    assert said[f"{CARD.format(1)} rank 0"] is Outcome.OK


def test_a_card_whose_rank_is_lost_does_not_vote(tmp_path: Path) -> None:
    said = found(tmp_path, Quorum(("tests.health.quorum_faults:lost_card", {"card": 0})), cards=3)
    assert {name: one.outcome for name, one in said.items()} == {CARD.format(0): Outcome.UNKNOWN, "cards": Outcome.OK}
    assert "exited with code 3" in said[CARD.format(0)].evidence


def test_an_error_of_the_check_itself_is_of_its_card_alone(tmp_path: Path) -> None:
    class Breaks(Generation):
        def _run(self, node: Node, seconds: float) -> Iterator[Finding]:
            if node.entity == CARD.format(0):
                raise OSError("no room")
            yield Finding(check=self.name, entity=node.entity, outcome=Outcome.OK, required=True, signal=1.0)

    said = found(tmp_path, Breaks())
    assert {name: one.outcome for name, one in said.items()} == {
        CARD.format(0): Outcome.UNKNOWN,
        CARD.format(1): Outcome.OK,
    }
    assert said[CARD.format(0)].required
    assert "no room" in said[CARD.format(0)].evidence


def test_cards_of_two_kinds_are_no_siblings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One kind is half as fast, and rounds otherwise: neither is a fault."""
    node = on_cards(tmp_path, 4)
    cards = tuple(replace(card, kind="new" if number < 2 else "old") for number, card in enumerate(node.cards))
    said = list(Stragglers({2: 1.0, 3: 1.0}).run(replace(node, cards=cards), 0.0))
    assert [one.entity for one in said if one.outcome is Outcome.BAD] == []
    alone = list(Stragglers().run(replace(node, cards=cards[1:3]), 0.0))
    assert {one.outcome for one in alone} == {Outcome.UNAVAILABLE}

    def told(node: Node, work: Any) -> list[Any]:
        return [({"": [digest.of_text(card.kind)]}, f"torch 2, {card.kind}") for card in node.cards]

    monkeypatch.setattr(quorum, "on_each_card", told)
    voted = list(Quorum().run(replace(node, cards=cards), 0.0))
    assert [one.outcome for one in voted] == [Outcome.OK, Outcome.OK], voted
    assert len({one.entity for one in voted}) == 2


def test_heat_and_clocks_are_the_host_s_and_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = np.arange(0.0, 60.0, 0.5)
    one = {"at_s": at, "tpot_s": np.full(len(at), 0.01), "read_s": at, "held_bytes": np.full(len(at), 1e8)}
    monkeypatch.setattr(soak, "group_on", lambda *args: contextlib.nullcontext())
    monkeypatch.setattr(soak, "measured", lambda *args: soak.Soaked([one], [], 0.0))
    said = [finding.entity for finding in soak.Soak().run(on_cards(tmp_path, 2), 60.0)]
    assert sorted(said) == sorted(
        [
            "heat",
            "clocks",
            *(f"{CARD.format(card)} rank 0, {what}" for card in (0, 1) for what in ("memory", "latency")),
        ]
    )


def test_a_card_that_hangs_ends_the_check_without_a_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(siblings, "_START_S", 1.0)
    hangs = [sys.executable, "-c", "import time; time.sleep(600)"]
    real = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda command, **more: real(hangs, **more))
    (said,) = found(tmp_path, Stragglers(), 1.0).values()
    assert said.outcome is Outcome.UNKNOWN
    assert f"the worker of {CARD.format(0)} ended, 2 s after" in said.evidence


@pytest.mark.parametrize(
    ("printed", "outcome", "text"),
    [
        ("a driver's banner", Outcome.OK, "0 of 7 products"),
        ("", Outcome.OK, "0 of 7 products"),
        (None, Outcome.BAD, "no answer"),
    ],
)
def test_what_else_a_worker_prints_hides_no_answer(
    printed: str | None, outcome: Outcome, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = json.dumps({"products": 7, "events": [], "injected": False})
    lines = "print('nothing')" if printed is None else f"print({printed!r}); print({answer!r})"
    real = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda command, **more: real([sys.executable, "-c", lines], **more))
    said = found(tmp_path, KnownAnswers(), 10.0)
    assert len(said) == 4
    assert {one.outcome for one in said.values()} == {outcome}
    assert all(text in one.evidence for one in said.values())


def test_what_no_card_is_asked_yet_is_unavailable(tmp_path: Path) -> None:
    (said,) = found(tmp_path, RankSteps()).values()
    assert said.outcome is Outcome.UNAVAILABLE


def test_generation_is_judged_on_each_card(tmp_path: Path) -> None:
    said = found(tmp_path, Generation(), 60.0)
    assert {name: one.outcome for name, one in said.items()} == {CARD.format(card): Outcome.OK for card in (0, 1)}, said
    silent = found(tmp_path / "two", Generation(("-k", "no_such_test")), 60.0)
    assert [shlex.split(one.next_command)[:3] for one in silent.values()] == [
        [f"HABANA_VISIBLE_MODULES={card}", "pytest", "-m"] for card in (0, 1)
    ]


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
