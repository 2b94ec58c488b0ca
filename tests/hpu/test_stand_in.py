"""The stand-in for Habana's bridge holds its rules: what a Gaudi punishes with silence is an error or a count in it."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SIMULATED = Path(__file__).resolve().parents[1] / "simulated_hpu"
SCRIPTS = Path(__file__).parent / "scripts"

pytestmark = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")


def answers(**env: str) -> dict[str, Any]:
    environment = {**os.environ, "PYTHONPATH": str(SIMULATED), "OMP_NUM_THREADS": "1", **env}
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "rules.py")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def lazy() -> dict[str, Any]:
    return answers(PT_HPU_LAZY_MODE="1", SIMULATED_HPU_UNSUPPORTED="argmax", HABANA_VISIBLE_MODULES="3")


@pytest.fixture(scope="module")
def eager() -> dict[str, Any]:
    return answers(PT_HPU_LAZY_MODE="0")


def test_tensors_say_where_they_live(lazy: dict[str, Any]) -> None:
    assert lazy["device"] == ["hpu:0", "hpu:0", "cpu", "cpu"]
    assert lazy["parameters"] == ["hpu:0"]


def test_host_and_device_do_not_mix(lazy: dict[str, Any]) -> None:
    assert "mixed" in lazy
    assert "expected all tensors on one device, found hpu and cpu" in lazy["mixed"]
    assert lazy["scalar"] == "nothing"
    assert "call .cpu() first" in lazy["numpy"]


def test_what_vmap_makes_lives_where_its_arguments_do(lazy: dict[str, Any]) -> None:
    assert lazy["vmap"] == ["hpu:0", True]
    assert lazy["vmap of the host"] == "cpu"


def test_an_unsynchronised_read_is_an_error(lazy: dict[str, Any]) -> None:
    assert "read before torch.hpu.synchronize()" in lazy["unsynchronised"]
    assert lazy["synchronised"] == "nothing"
    assert "be waited for" in lazy["event"]


def test_a_new_shape_is_a_compilation_and_an_old_one_is_not(lazy: dict[str, Any]) -> None:
    assert lazy["lazy"] == [1, 0, 1, 0]


def test_a_graph_is_captured_once_a_shape_and_replayed_on_new_inputs(lazy: dict[str, Any]) -> None:
    captures = lazy["graph"]
    assert captures[0] >= 1
    assert captures[1] >= 1
    assert captures[2] == 0
    assert lazy["replay"] == [True, True, True]
    assert lazy["overwritten"]
    assert lazy["bypassed"]


def test_eager_mode_has_no_graphs(lazy: dict[str, Any], eager: dict[str, Any]) -> None:
    assert lazy["modes"] == {"graphs": True}
    assert eager["modes"] == {"graphs": False}
    assert eager["lazy"][1] == eager["lazy"][3] == 0


def test_a_fallback_is_counted(lazy: dict[str, Any], eager: dict[str, Any]) -> None:
    assert (lazy["fallbacks"], lazy["fallbacks_after"]) == (0, 1)
    assert eager["fallbacks_after"] == 0
    assert lazy["unknown_metric"]


def test_a_module_that_is_not_visible_cannot_be_taken(lazy: dict[str, Any]) -> None:
    assert "not visible" in lazy["second_card"]


CARDS = 3


@pytest.fixture(scope="module")
def together() -> list[dict[str, Any]]:
    """What each of three cards of one host saw of their collectives."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    fixed = {"PYTHONPATH": str(SIMULATED), "OMP_NUM_THREADS": "1", "PT_HPU_LAZY_MODE": "1", "GLOO_SOCKET_IFNAME": "lo"}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(SCRIPTS / "cards.py")],
            env={
                **{**os.environ, **fixed, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
                **{"RANK": str(rank), "WORLD_SIZE": str(CARDS), "HABANA_VISIBLE_MODULES": "0,1,2"},
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(CARDS)
    ]
    try:
        said = [rank.communicate(timeout=120) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0] * CARDS, "\n".join(error for _, error in said)
    return [json.loads(answer) for answer, _ in said]


def test_every_card_has_the_sum_of_all(together: list[dict[str, Any]]) -> None:
    for card in together:
        assert card["sums"] == {f"torch.{dtype}": [True] * 4 for dtype in ("float32", "bfloat16", "int64")}
        assert card["often"]
        assert card["gathered"] == [[float(rank)] * 2 for rank in range(CARDS)]
        assert card["largest"] == [CARDS - 1]


def test_every_card_has_the_same_bits_of_a_rounded_sum(together: list[dict[str, Any]]) -> None:
    assert len({tuple(card["bits"]) for card in together}) == 1


def test_a_sum_over_cards_wants_contiguous_tensors(together: list[dict[str, Any]]) -> None:
    for card in together:
        assert "must be contiguous" in card["strided"]
