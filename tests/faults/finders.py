"""For each property the faults that are its own to find, and where: what proves that the property is checked at all."""

from __future__ import annotations

from typing import Final

HOME: Final = "transformers:1"

FINDERS: Final[dict[str, tuple[str, ...]]] = {
    # test: (engine, ranks and, where it is not fp32, dtype; faults that it must find), all on llama-tiny
    "test_logits_match_the_oracle": (HOME, "sign_flip"),
    "test_free_run_follows_the_oracle": (HOME, "second_best"),
    "test_a_chosen_token_is_the_argmax_of_its_own_logits": (HOME, "second_best"),
    "test_every_logit_is_finite": (HOME, "nan_logit"),
    "test_cache_equals_no_cache": (HOME, "stale_kv"),
    "test_prefill_equals_decode_at_every_prefix": (HOME, "stale_kv"),
    "test_chunked_prefill_equals_one_pass": (HOME, "kv_parts_lost"),
    "test_later_tokens_never_alter_earlier_logits": (HOME, "causal_leak"),
    "test_a_cropped_cache_is_as_if_never_longer": (HOME, "crop_forgets"),
    "test_bucket_edges": (HOME, "stale_kv"),
    "test_a_row_does_not_see_its_neighbours": (HOME, "rows_mixed"),
    "test_a_row_is_itself_in_any_company": (HOME, "rows_mixed"),
    "test_the_order_of_rows_is_only_their_order": (HOME, "rows_mixed"),
    "test_left_padding_changes_nothing": (HOME, "mask_ignored"),
    "test_padding_to_a_tile_changes_nothing": (HOME, "mask_ignored"),
    "test_a_request_leaves_nothing_behind": (HOME, "remembered"),
    "test_requests_of_different_shapes": (HOME, "stale_kv"),
    "test_drift_is_that_of_the_dtype": (HOME, "sign_flip"),
    "test_positions_near_the_limit": (HOME, "sign_flip"),
    "test_a_row_ends_at_its_end_of_text": (HOME, "eos_ignored"),
    "test_a_length_is_kept": (HOME, "length_off_by_one"),
    "test_a_least_length_is_kept": (HOME, "least_ignored"),
    "test_a_row_ends_at_a_stop_string": (HOME, "stop_string_ignored"),
    "test_a_shorter_run_is_a_prefix": (HOME, "short_runs_differ"),
    "test_a_run_in_two_parts_is_the_run_in_one": (HOME, "stale_kv"),
    # A NaN shows when a run is compared with itself as well; a stale cache only when it is compared with another.
    "test_rare_texts_are_read_like_any_other": (HOME, "rare_embedding_nan", "stale_kv"),
    "test_a_prompt_of_one_token": (HOME, "mask_ignored"),
    "test_a_prompt_beyond_the_limit_has_a_declared_outcome": (HOME, "beyond_the_limit"),
    "test_a_repeated_request_gives_the_same_bits": (HOME, "noise"),
    "test_a_fresh_process_gives_the_same_bits": (HOME, "by_process", "first_pass_wrong", "first_request_wrong"),
    "test_weights_stay_as_they_were_loaded": (HOME, "weights_drift"),
    "test_inputs_stay_as_they_were_given": (HOME, "inputs_written"),
    "test_a_data_set_equals_its_prompts_one_by_one": (HOME, "results_reversed"),
    "test_a_replayed_graph_equals_eager": ("transformers-compiled:1", "compiled_only"),
    "test_a_graph_replayed_twice_gives_the_same_bits": ("transformers-compiled:1", "remembered"),
    "test_a_split_over_devices_gives_the_same_bits": ("accelerate:placement=split:1", "zeroed_head"),
    "test_offloaded_weights_give_the_same_bits": ("accelerate:placement=disk:1", "not_fetched_back"),
    "test_streams_are_independent": ("deepspeed-zero:2", "shared_stream"),
    "test_tensor_parallel_degree": ("deepspeed-inference:2", "half_allreduce"),
    "test_all_ranks_agree_on_every_token": ("deepspeed-inference:2", "one_rank_differs"),
    "test_every_share_of_the_vocabulary_is_reached": ("deepspeed-inference:2", "half_allreduce"),
    "test_rows_that_end_early_end_on_every_rank": ("deepspeed-inference:2", "one_rank_differs"),
    "test_what_was_asked_for_really_ran": ("transformers:1 bf16", "widened"),
}

ELSEWHERE: Final = {  # what no fault that is put into a loaded engine can show, and what shows it
    "test_quantised_weights_are_smaller": "weights are counted, not computed with",
    "test_texts_of_46_languages_round_trip": "test_every_property.py, with a tokenizer that knows two words",
    "test_a_prompt_of_nothing_has_a_declared_outcome": "the contract of TokenBatch refuses it before an engine sees it",
    "test_top_probabilities_match_the_oracle": "tests/plugin/test_tiers.py: of engines that show no logits only",
    "test_every_prompt_of_a_data_set_has_its_pair": "tests/plugin",
}


def where(run: str) -> tuple[str, str, str]:
    """Engine, ranks and dtype of a run as it is written above."""
    place, _, dtype = run.partition(" ")
    engine, _, ranks = place.rpartition(":")
    return engine, ranks, dtype or "fp32"
