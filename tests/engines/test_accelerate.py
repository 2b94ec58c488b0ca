"""accelerate: wherever the weights lie, the same tokens, the same weights, and nothing left on the disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genqual.models import safetensor, weights
from genqual.models.registry import resolve
from tests.benchmarks.xeon_decode import build

from .checks import callback_runs_between_steps, decoding_is_right, fault_shows, same_tokens
from .conftest import FORCED, faults_of, steps
from .harness import LEVEL, ROWS, Answers, run

# Placement, model, and how many of its tensors are fetched for each forward.
PLACES = (
    ("auto", "llama-tiny", 0),
    ("auto+max_memory=2MB", "llama-tiny", 29),  # the largest layer must fit beside what stays
    ("split", "llama-tiny", 0),
    ("cpu-offload", "bloom-tiny", 42),
    ("cpu-offload", "llama-tiny", 30),
    ("disk-offload", "llama-tiny", 30),
    ("disk", "bloom-tiny", 15),
    ("dispatch", "bloom-tiny", 0),
)
NARROW, WIDE = "int8-bitsandbytes", ("split", "cpu-offload", "disk-offload", "disk", "dispatch")
TIED = {"hidden": 64, "intermediate": 64, "layers": 1, "heads": 1, "kv_heads": 1, "vocabulary": 64}
TWO = ("transformers", "accelerate:placement=disk-offload")
FETCHED = tuple((place, model) for place, model, tensors in PLACES if tensors)
each_place = pytest.mark.parametrize(("place", "model"), [(place, model) for place, model, _ in PLACES])


@pytest.fixture(scope="module")
def placed(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Any]:
    """Answers of every placement, all in one process."""
    folder = tmp_path_factory.mktemp("accelerate")
    (folder / "scratch").mkdir()
    plans: list[dict[str, Any]] = []
    forced = {"rows": ROWS, "forced": FORCED}
    for place, model, tensors in PLACES:
        key = f"{place}.{model}"
        asked = steps(None, model, key=key)
        if tensors:
            asked.append(["faulty", f"{key}.not_fetched_back", {"name": "not_fetched_back"} | forced])
        plans.append({"engine": f"accelerate:placement={place}", "model": model, "steps": asked})
    plans[0]["steps"] += [
        ["between", "between", {"rows": LEVEL, "new": 5}],
        *(["faulty", f"auto.llama-tiny.{n}", {"name": n} | forced] for n in faults_of("accelerate", "llama-tiny")),
        ["refused", "typo", {"placement": "dsik"}],
        ["refused", "nowhere", {"placement": "disk-offload", "offload_folder": str(folder / "nowhere")}],
        *(["refused", f"wide {place}", {"placement": place, "dtype": NARROW}] for place in WIDE),
        ["full_disk", "full", {"placement": "disk-offload", "limit": 100_000}],
    ]
    build(tied := folder / "tied", TIED)
    state = {name: array for name, array in weights.read(resolve(str(tied))).items() if name != "lm_head.weight"}
    safetensor.write_bf16(tied / "model.safetensors", state)
    config = json.loads((tied / "config.json").read_text()) | {"tie_word_embeddings": True}
    (tied / "config.json").write_text(json.dumps(config))
    for engine in TWO:
        plans.append({"engine": engine, "model": str(tied), "steps": [["facts", f"tied {engine}", {}]]})
    (answers,) = run(folder, *plans, TMPDIR=str(folder / "scratch"), GENQUAL_LOGS=str(folder))
    return {(place, model): answers for place, model, _ in PLACES} | {("", ""): answers, ("folder", ""): folder}


@each_place
def test_tokens_are_those_of_plain_transformers(placed: Any, eager: Answers, place: str, model: str) -> None:
    for batch in ("padded", "level"):
        assert (
            placed[place, model][f"{place}.{model}.{batch}.tokens"].tolist()
            == eager[f"{model}.{batch}.tokens"].tolist()
        )


@each_place
def test_decoding_and_one_pass_agree_with_an_exact_pass(placed: Any, place: str, model: str) -> None:
    decoding_is_right(placed[place, model], f"{place}.{model}")


@each_place
def test_the_weights_are_counted_and_hashed_where_they_lie(placed: Any, eager: Answers, place: str, model: str) -> None:
    for fact in ("weight_bytes", "weight_hash", "parameters"):
        assert placed[place, model][f"{place}.{model}.facts.{fact}"] == eager[f"{model}.facts.{fact}"]


@pytest.mark.parametrize(("place", "model", "tensors"), PLACES)
def test_inspect_says_what_is_offloaded(placed: Any, place: str, model: str, tensors: int) -> None:
    found = placed[place, model][f"{place}.{model}.facts.inspect"]
    assert found["offloaded_tensors"] == tensors
    assert found["placement"] == place.partition("+")[0]


@pytest.mark.parametrize(("place", "model"), FETCHED)
def test_a_weight_that_was_not_fetched_back_shows(placed: Any, place: str, model: str) -> None:
    fault_shows(placed[place, model], f"{place}.{model}", "not_fetched_back")


@pytest.mark.parametrize("name", faults_of("accelerate", "llama-tiny"))
def test_every_fault_shows_and_is_taken_back(placed: Any, name: str) -> None:
    fault_shows(placed["", ""], "auto.llama-tiny", name)


def test_a_callback_runs_between_steps_and_changes_no_token(placed: Any) -> None:
    callback_runs_between_steps(placed["", ""], "between")


def test_a_placement_that_is_none_lists_them(placed: Any) -> None:
    assert placed["", ""]["typo"].startswith("BadInput: placement 'dsik': accelerate is run with auto, split, cpu-off")


@pytest.mark.parametrize("place", WIDE)
def test_a_placement_that_would_keep_wide_weights_says_so(placed: Any, place: str) -> None:
    assert placed["", ""][f"wide {place}"].startswith(f"Unsupported: placement={place} of {NARROW}: ")


def test_a_tied_head_that_is_offloaded_is_counted_once(placed: Any) -> None:
    answers = placed["", ""]
    for fact in ("weight_bytes", "parameters"):
        plain, away = (answers[f"tied {engine}.{fact}"] for engine in TWO)
        assert plain == away > 0


def test_a_folder_that_is_not_there_is_named(placed: Any) -> None:
    said = placed["", ""]["nowhere"]
    assert said.startswith("BadInput: weights offloaded to disk shall go to")
    assert "nowhere, which is no directory" in said


def test_a_disk_that_fills_is_out_of_memory_with_its_cause(placed: Any) -> None:
    said = placed["", ""]["full"]
    assert said.startswith("OutOfMemory: load filled a disk: [Errno 27] File too large"), said


def test_every_folder_is_noted_for_whoever_ends_the_ranks(placed: Any) -> None:
    from genqual.engines.hf import scratch

    folder: Path = placed["folder", ""]
    made = list((folder / "scratch").glob("genqual-scratch-*"))
    assert len(made) == 4 + 1  # the placements on disk, the tied model's too, and the one that filled it
    assert scratch.sweep(folder) == []
    assert not any(path.exists() for path in made)
    assert not (folder / scratch.NOTE).exists()


def test_the_same_tokens_is_a_check_that_can_fail(eager: Answers) -> None:
    with pytest.raises(AssertionError):
        same_tokens(
            Answers(eager.words, {**eager.arrays, "llama-tiny.level.tokens": np.zeros((2, 12))}, ""),
            eager,
            "llama-tiny",
        )
