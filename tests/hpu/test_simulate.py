"""`pytest -m hpu --simulate` as a user types it: which cases there are, and that nothing pretends to be a Gaudi."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.plugin.suite import suite


@pytest.mark.parametrize("cards", [1, 2, 8])
def test_every_hpu_case_is_collected_for_as_many_cards_as_there_are(tmp_path: Path, cards: int) -> None:
    run = suite(
        tmp_path, "-m", "hpu", "--simulate", "--benchmark", "--profile", "hpu", "--collect-only", "-q",
        *(["--ranks", ",".join(str(n) for n in (1, 2, 8) if n <= cards)]),
        env={"GENQUAL_SIMULATED_CARDS": str(cards)},
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    for ranks in (1, 2, 8):
        word = "optimum-habana-llama" if ranks == 1 else f"optimum-habana-tp{ranks}-llama"
        assert (word in run.stdout) == (ranks <= cards)
    assert "test_no_compilation_and_no_fallback_in_a_timed_window[hpu-optimum-habana" in run.stdout


def test_more_ranks_than_cards_are_refused_before_anything_starts(tmp_path: Path) -> None:
    run = suite(
        tmp_path, "-m", "hpu", "--simulate", "--profile", "hpu", "--collect-only",
        env={"GENQUAL_SIMULATED_CARDS": "2"},
    )  # fmt: skip
    assert run.returncode == 4
    assert "--ranks 8: this host has 2 hpu cards" in run.stdout + run.stderr


def test_without_simulation_the_cards_are_absent(tmp_path: Path) -> None:
    run = suite(
        tmp_path,
        "-m",
        "hpu",
        "--engine",
        "optimum-habana",
        "--model",
        "llama-tiny",
        "-k",
        "finite",
        "--no-upload",
        "-rs",
    )
    assert run.returncode != 0
    assert "hpu is absent" in run.stdout
