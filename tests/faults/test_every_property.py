"""Every property kills a fault that is its own to find: put into a live engine, judged by the real suite."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from genqual.conformance.faults import CATALOGUE
from genqual.detection.store import HONEST, Store
from genqual.detection.tables import Matrix
from tests.here import CPU
from tests.plugin.suite import ROOT, suite

FINDERS: Final = {  # on one rank of transformers, llama-tiny, fp32
    "test_logits_match_the_oracle": "sign_flip",
    "test_free_run_follows_the_oracle": "second_best",
    "test_a_chosen_token_is_the_argmax_of_its_own_logits": "second_best",
    "test_every_logit_is_finite": "nan_logit",
    "test_cache_equals_no_cache": "stale_kv",
    "test_prefill_equals_decode_at_every_prefix": "stale_kv",
    "test_chunked_prefill_equals_one_pass": "kv_parts_lost",
    "test_later_tokens_never_alter_earlier_logits": "causal_leak",
    "test_a_cropped_cache_is_as_if_never_longer": "crop_forgets",
    "test_bucket_edges": "stale_kv",
    "test_a_row_does_not_see_its_neighbours": "rows_mixed",
    "test_a_row_is_itself_in_any_company": "rows_mixed",
    "test_the_order_of_rows_is_only_their_order": "rows_mixed",
    "test_left_padding_changes_nothing": "mask_ignored",
    "test_padding_to_a_tile_changes_nothing": "mask_ignored",
    "test_a_request_leaves_nothing_behind": "remembered",
    "test_requests_of_different_shapes": "stale_kv",
    "test_drift_is_that_of_the_dtype": "sign_flip",
    "test_positions_near_the_limit": "sign_flip",
    "test_a_row_ends_at_its_end_of_text": "eos_ignored",
    "test_a_length_is_kept": "length_off_by_one",
    "test_a_least_length_is_kept": "least_ignored",
    "test_a_row_ends_at_a_stop_string": "stop_string_ignored",
    "test_a_shorter_run_is_a_prefix": "short_runs_differ",
    "test_a_run_in_two_parts_is_the_run_in_one": "stale_kv",
    "test_rare_texts_are_read_like_any_other": "rare_embedding_nan",
    "test_a_prompt_of_one_token": "mask_ignored",
    "test_a_prompt_beyond_the_limit_has_a_declared_outcome": "beyond_the_limit",
    "test_a_repeated_request_gives_the_same_bits": "noise",
    "test_a_fresh_process_gives_the_same_bits": "by_process",
    "test_weights_stay_as_they_were_loaded": "weights_drift",
    "test_inputs_stay_as_they_were_given": "inputs_written",
    "test_a_data_set_equals_its_prompts_one_by_one": "results_reversed",
}
ELSEWHERE: Final = {  # what needs another engine or several ranks (`genqual faults matrix`), or no engine at all
    "test_a_replayed_graph_equals_eager": "transformers-compiled:1, compiled_only",
    "test_a_graph_replayed_twice_gives_the_same_bits": "transformers-compiled:1, stale_input",
    "test_a_split_over_devices_gives_the_same_bits": "accelerate, not_fetched_back",
    "test_offloaded_weights_give_the_same_bits": "accelerate, not_fetched_back",
    "test_streams_are_independent": "deepspeed-zero:2, shared_stream",
    "test_tensor_parallel_degree": "deepspeed-inference:2, half_allreduce",
    "test_all_ranks_agree_on_every_token": "deepspeed-inference:2, one_rank_differs",
    "test_every_share_of_the_vocabulary_is_reached": "deepspeed-inference:2, half_allreduce",
    "test_rows_that_end_early_end_on_every_rank": "deepspeed-inference:2, one_rank_differs",
    "test_quantised_weights_are_smaller": "weights are counted, not computed with",
    "test_what_was_asked_for_really_ran": "below, in bf16",
    "test_texts_of_46_languages_round_trip": "below, with a tokenizer that knows two words",
    "test_a_prompt_of_nothing_has_a_declared_outcome": "the contract of TokenBatch refuses it before an engine sees it",
    "test_every_prompt_of_a_data_set_has_its_pair": "tests/plugin",
}


def properties() -> set[str]:
    """The tests of the suite, read from its source."""
    return {
        node.name
        for file in (ROOT / "suites" / "conformance").glob("test_*.py")
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def test_no_property_is_without_a_fault_that_it_must_find() -> None:
    assert properties() == FINDERS.keys() | ELSEWHERE.keys()
    assert set(FINDERS.values()) <= CATALOGUE.keys()


@pytest.mark.heavy
def test_each_property_finds_its_fault_and_honest_runs_pass(tmp_path: Path) -> None:
    store = tmp_path / "cells.jsonl"
    names = [HONEST, *dict.fromkeys(FINDERS.values())]
    done = subprocess.run(
        [sys.executable, "-m", "genqual.cli", "faults", "matrix", "--models", "llama-tiny", "--dtypes", "fp32",
         "--engines", "transformers:1", "--store", str(store), "--faults", ",".join(names)],
        cwd=ROOT, capture_output=True, text=True, timeout=3000, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    matrix = Matrix(Store(store).cells.values())
    missed = {test: fault for test, fault in FINDERS.items() if matrix.lanes(fault, test) != "F"}
    assert not missed
    assert not matrix.false_alarms()


@pytest.mark.heavy
def test_a_model_that_was_widened_is_found_in_its_declared_lane(tmp_path: Path) -> None:
    broken = {"GENQUAL_TEST_FAULT": json.dumps({"name": "widened"})}
    run = suite(
        tmp_path, "-m", f"{CPU} and conformance", "--engine", "transformers", "--model", "llama-tiny",
        "--dtype", "bf16", "--no-upload", "-p", "tests.faults.inject", "-k", "really_ran or drift_is", env=broken,
    )  # fmt: skip
    assert "2 failed" in run.stdout, run.stdout
    assert "more exact than bf16 can be" in run.stdout
    assert "bf16 was declared" in run.stdout


def test_a_tokenizer_that_changes_a_text_is_found(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    from genqual.models.prompts import lost_texts
    from genqual.models.spec import ModelSpec

    words = {"hello": 0, "w": 1, "?": 2}
    made = Tokenizer(models.WordLevel(words, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.decoder = decoders.Fuse()
    made.save(str(tmp_path / "tokenizer.json"))
    spec = ModelSpec("mine", "directory", str(tmp_path), "llama")
    assert lost_texts(spec, ["hello"]) == []
    assert lost_texts(spec, ["hello", "H"]) == [("H", "?")]
