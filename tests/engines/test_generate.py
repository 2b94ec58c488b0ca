"""Plain transformers through our engine: tokens, times, scores, memory, against float64 and against itself."""

from __future__ import annotations

import numpy as np
import pytest

from genqual.engines.projection import project

from .checks import callback_runs_between_steps, decoding_is_right, fault_shows
from .conftest import FORCED, STOPS, faults_of
from .harness import LEVEL, NEW, ROWS, Answers, nrms

MODELS = ("llama-tiny", "bloom-tiny")


@pytest.mark.parametrize("model", MODELS)
def test_decoding_and_one_pass_agree_with_an_exact_pass_over_each_row_alone(eager: Answers, model: str) -> None:
    decoding_is_right(eager, model)


@pytest.mark.parametrize("model", MODELS)
def test_statistics_are_those_of_the_logits(eager: Answers, model: str) -> None:
    logits = eager[f"{model}.score.logits"].astype(np.float64)
    assert logits.shape == (len(FORCED[0]), len(ROWS), 1024)
    rows = logits.reshape(-1, 1024)  # as they are projected: of another number of rows, BLAS may round otherwise
    assert np.array_equal(eager[f"{model}.score.projections"].reshape(len(rows), -1), project(rows))
    order = np.argsort(-logits, axis=-1, kind="stable")[..., :16]
    assert np.array_equal(eager[f"{model}.score.top_ids"], order)
    assert np.array_equal(eager[f"{model}.score.top_logits"], np.take_along_axis(logits, order, axis=-1))
    assert np.allclose(eager[f"{model}.score.logsumexp"], np.logaddexp.reduce(logits, axis=-1), rtol=1e-12)
    forced = np.array(FORCED).T[..., None]
    assert np.array_equal(eager[f"{model}.score.forced_logit"], np.take_along_axis(logits, forced, axis=-1)[..., 0])
    assert eager[f"{model}.score.finite"].all()


def test_equal_logits_are_ordered_by_id(eager: Answers) -> None:
    assert eager["ties.top_ids"][0, 0].tolist() == [19, 1, 3, *range(4, 17)]
    assert eager["ties.top_logits"][0, 0].tolist() == [9.0, 5.0, 5.0, *[1.0] * 13]


def test_a_row_that_is_not_finite_says_so_and_leaves_zeros(eager: Answers) -> None:
    assert eager["ties.finite"].tolist() == [[True, False, False]]
    for name in ("top_logits", "projections", "logsumexp", "forced_logit"):
        assert not eager[f"ties.{name}"][0, 1:].any()
    assert np.isnan(eager["ties.logits"][0, 1, 0])
    assert np.isinf(eager["ties.logits"][0, 2, 0])


def test_steps_that_are_projected_together_are_projected_right(eager: Answers) -> None:
    want = np.array([project(step) for step in eager["parts.logits"]])
    assert eager["parts.first"].shape == (7, 3, 256), "two steps a part, and one that is left"
    assert np.allclose(eager["parts.first"], want, rtol=1e-6, atol=1e-7)
    assert eager["parts.first"].tobytes() == eager["parts.second"].tobytes()


def test_narrow_logits_are_widened_not_rounded_again(eager: Answers) -> None:
    assert eager["narrow.forced_logit"].item() == 1.0
    exact = np.logaddexp.reduce([1.0, *[-float(k) for k in range(19)]])
    assert eager["narrow.logsumexp"].item() == pytest.approx(exact, rel=1e-14)


@pytest.mark.parametrize("model", MODELS)
def test_greedy_tokens_are_the_choices_of_their_own_scores(eager: Answers, model: str) -> None:
    tokens = eager[f"{model}.padded.tokens"]
    assert tokens.shape == (len(ROWS), NEW)
    assert tokens.dtype == np.int64
    assert len(np.unique(tokens)) > 6


def test_a_checkpoint_that_samples_and_stops_changes_nothing(eager: Answers) -> None:
    assert eager["resisting.tokens"].tolist() == eager["llama-tiny.level.tokens"].tolist()


@pytest.mark.parametrize("model", MODELS)
def test_each_step_of_a_batch_is_stamped_in_order(eager: Answers, model: str) -> None:
    stamps = eager[f"{model}.padded.step_s"]
    assert stamps.shape == (NEW,)
    assert stamps[0] > 0
    assert (np.diff(stamps) > 0).all()
    assert stamps[-1] <= eager[f"{model}.padded.wall_s"]
    assert eager[f"{model}.padded.cpu_s"] > 0


@pytest.mark.parametrize("model", MODELS)
def test_the_first_tokens_are_kept_as_they_were_when_their_time_was_stamped(eager: Answers, model: str) -> None:
    assert eager[f"{model}.padded.streamed"].tolist() == eager[f"{model}.padded.tokens"][:, 0].tolist()


def test_a_callback_runs_between_steps_and_changes_no_token(eager: Answers) -> None:
    callback_runs_between_steps(eager, "between")


def test_loading_again_gives_the_same_weights_and_leaves_what_is_loaded_alone(eager: Answers) -> None:
    assert eager["again.hash"] == eager["llama-tiny.facts.weight_hash"]
    assert eager["again.alive"] == 1, "the second one is let go"
    assert eager["again.loading_s"] > 0.0
    assert np.array_equal(eager["again.tokens"], eager["between.tokens"])


def test_a_model_in_a_graph_is_not_loaded_again(eager: Answers) -> None:
    assert eager["static.again.said"] is False


@pytest.mark.parametrize("model", MODELS)
def test_load_reports_what_the_rank_holds(eager: Answers, model: str) -> None:
    kv = {"llama-tiny": 3 * 2 * 8 * 8 * 4, "bloom-tiny": 3 * 2 * 192 * 4}[
        model
    ]  # layers x (k, v) x heads x width x bytes
    assert eager[f"{model}.facts.kv_bytes_per_token"] == kv
    assert eager[f"{model}.facts.weight_bytes"] == 4 * eager[f"{model}.facts.parameters"]
    assert eager[f"{model}.facts.max_positions"] == {"llama-tiny": 4096, "bloom-tiny": None}[model]
    assert eager[f"{model}.facts.vocabulary"] == 1024
    assert sum(eager[f"{model}.facts.phases"].values()) == pytest.approx(eager[f"{model}.facts.load_s"], rel=0.05)


def test_the_import_is_on_the_clock(eager: Answers) -> None:
    assert eager["llama-tiny.facts.phases"]["import"] > 0.5 * eager["llama-tiny.facts.module_import_s"]
    assert eager["llama-tiny.facts.phases"]["read"] < eager["llama-tiny.facts.phases"]["import"]


def test_bf16_differs_as_bf16_does(eager: Answers) -> None:
    assert 1e-3 < nrms(eager["bf16.logits"], eager["llama-tiny.exact.logits"]) < 5e-2
    assert eager["bf16.facts.inspect"]["dtypes"] == ["bfloat16"]
    assert eager["bf16.facts.kv_bytes_per_token"] * 2 == eager["llama-tiny.facts.kv_bytes_per_token"]


def test_inspect_shows_the_attention_that_ran(eager: Answers) -> None:
    chosen, manual = eager["llama-tiny.facts.inspect"], eager["manual.facts.inspect"]
    assert chosen["attn_implementation"] == "sdpa"
    assert any("scaled_dot_product" in name for name in chosen["operators"])
    assert manual["attn_implementation"] == "eager"
    assert not any("scaled_dot_product" in name for name in manual["operators"])
    assert nrms(eager["manual.logits"], eager["llama-tiny.score.logits"]) < 3e-6


def test_inspect_proves_full_fp32_and_the_threads_asked_for(eager: Answers) -> None:
    found = eager["llama-tiny.facts.inspect"]
    assert found["fp32_exact"] is True
    assert (found["threads"], found["interop_threads"]) == (1, 1)


@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_the_probe_for_full_fp32_tells_what_a_product_shows(eager: Answers, precision: str) -> None:
    error = nrms(eager[f"{precision}.single"], eager[f"{precision}.double"])
    assert eager[f"{precision}.claimed"] is (error < 1e-6)  # "medium" is bf16 where the CPU has it, else nothing


def test_an_attention_that_the_model_lacks_is_unsupported(eager: Answers) -> None:
    assert eager["sdpa"].startswith("Unsupported: bloom-tiny has no sdpa attention")


def test_graphs_of_another_device_are_unsupported_and_a_typo_lists_the_words(eager: Answers) -> None:
    assert eager["cuda_graphs"].startswith(
        "Unsupported: graphs=cuda records CUDA graphs, and this rank computes on cpu"
    )
    assert eager["no_graphs"].startswith("BadInput: graphs 'yes': must be one of none, static, compile, cuda, hpu")
    assert eager["no_wrapper"].startswith("BadInput: cpp_wrapper 'yes': true or false, and not with CUDA graphs")
    assert eager["no_dynamic"].startswith("BadInput: dynamic 'yes': true or false, and not with CUDA graphs")
    assert eager["llama-tiny.facts.inspect"]["graphs"] == "none"


@pytest.mark.parametrize("model", MODELS)
def test_a_static_cache_alone_changes_no_token(eager: Answers, model: str) -> None:
    decoding_is_right(eager, f"static.{model}")
    for batch in ("padded", "level"):
        assert eager[f"static.{model}.{batch}.tokens"].tolist() == eager[f"{model}.{batch}.tokens"].tolist()
    found = eager[f"static.{model}.facts.inspect"]
    assert (found["graphs"], found["cache"], found["cache_length"]) == ("static", "StaticCache", 128)


def test_a_peak_is_seen_and_forgotten_after_a_reset(eager: Answers) -> None:
    before, after, reset = (eager[f"memory.{key}"] for key in "abc")
    assert after["peak"] >= before["current"] + (190 << 20)  # the kernel counts a thread's last pages late
    assert after["current"] < after["peak"] - (150 << 20)
    if "not reset" not in after["source"]:
        assert reset["peak"] < after["peak"] - (150 << 20)


def test_out_of_memory_is_an_outcome_after_which_the_engine_works(eager: Answers) -> None:
    raised = eager["starve.raised"]
    assert raised.startswith("OutOfMemory: score_prefill ran out of memory")
    assert raised.endswith("context None, cause None")  # either would keep the tensors that did not fit
    assert eager["starve.tokens"].tolist() == eager["llama-tiny.level.tokens"].tolist()
    assert len(LEVEL) == len(eager["starve.tokens"])


@pytest.mark.parametrize(
    ("model", "name"), [(model, name) for model in MODELS for name in faults_of("transformers", model)]
)
def test_every_fault_shows_and_is_taken_back(eager: Answers, model: str, name: str) -> None:
    fault_shows(eager, model, name)


@pytest.mark.parametrize("name", ["stale_kv", "decode_only"])
def test_a_fault_of_decoding_leaves_the_one_pass_alone(eager: Answers, name: str) -> None:
    assert np.array_equal(eager[f"llama-tiny.{name}.prefill"], eager["llama-tiny.one_pass.projections"])


@pytest.mark.parametrize("name", ["sign_flip", "row_zeroed", "rotary_theta_1pct"])
def test_a_changed_weight_or_table_changes_the_hash(eager: Answers, name: str) -> None:
    assert eager[f"llama-tiny.{name}.hash_with"] != eager["llama-tiny.facts.weight_hash"]


def test_a_rank_raises_once_at_its_step(eager: Answers) -> None:
    assert eager["rank_raise.raised"] == "on purpose"
    assert eager["rank_raise.again"].tolist() == eager["llama-tiny.level.tokens"][:, :4].tolist()


def test_a_rank_sleeps_once_at_its_step(eager: Answers) -> None:
    pauses = np.diff(eager["rank_sleep.step_s"])  # step 2 is the third forward pass
    assert (pauses > 0.4).tolist() == [False, True, False]


@pytest.mark.parametrize("how", STOPS)
@pytest.mark.parametrize("model", MODELS)
def test_a_run_that_may_stop_is_run_by_the_cache_that_is_timed(eager: Answers, model: str, how: str) -> None:
    """Or stopping would be judged on one path and times be those of another."""
    assert eager[f"static.{model}.until.{how}.caches"] == ["StaticCache"]
    assert eager[f"static.{model}.until.{how}.tokens"].tolist() == eager[f"{model}.level.tokens"][:, :5].tolist()
    assert eager[f"llama-tiny.until.{how}.caches"] == ["DynamicCache"]


@pytest.mark.parametrize("key", ["first", *(f"static.{model}.first" for model in MODELS)])
def test_the_pass_that_loading_ends_with_is_kept_and_shows_its_own_fault(eager: Answers, key: str) -> None:
    assert (eager[f"{key}.plain"], eager[f"{key}.healed"]) == (0.0, 0.0)
    assert eager[f"{key}.spoilt"] > 1e-4
    assert eager[f"{key}.shape"] == [1, 1024]
