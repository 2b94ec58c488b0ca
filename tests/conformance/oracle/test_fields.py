"""What a configuration may say, and what is refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from genqual.conformance.oracle.fields import Fields
from genqual.conformance.oracle.registry import oracle_for, parameters_of
from genqual.errors import BadInput

from .small import IDS, SMALL, parameters

LLAMA = SMALL["llama"]
LINEAR = {"rope_type": "linear", "factor": 2.0}


def logits(config: dict[str, Any]) -> Any:
    return oracle_for(config, parameters(config)).logits(IDS[:20])


@pytest.mark.parametrize("name", SMALL)
def test_a_field_that_nobody_knows_is_refused_by_name(name: str) -> None:
    weights = parameters(SMALL[name])
    with pytest.raises(BadInput, match="no_such_field = 3"):
        oracle_for(SMALL[name] | {"no_such_field": 3}, weights)
    harmless: list[object] = [None, False, [], {}]
    for nothing in harmless:
        oracle_for(SMALL[name] | {"no_such_field": nothing, "torch_dtype": "bfloat16", "use_cache": True}, weights)


# Fields of published checkpoints beside sizes, as their config.json has them.
PUBLISHED: dict[str, tuple[str, dict[str, Any]]] = {
    "SmolLM2": (
        "llama",
        {"is_llama_config": True, "pretraining_tp": 1, "rope_interleaved": False, "rope_scaling": None}
        | {"transformers.js_config": {"dtype": "q4"}},
    ),
    "Phi-4-mini": (
        "phi3",
        {"full_attn_mod": 1, "interpolate_factor": 1, "lm_head_bias": False, "mlp_bias": False, "attention_bias": False}
        | {"auto_map": {"AutoConfig": "x"}, "sliding_window": 262144, "embd_pdrop": 0.0, "rope_scaling": None},
    ),
    "Gemma 2": (
        "gemma2",
        {"cache_implementation": "hybrid", "hidden_act": "gelu_pytorch_tanh", "sliding_window_size": 16},
    ),
    "Gemma": ("gemma", {"hidden_act": "gelu", "hidden_activation": None}),
    "Gemma 3": (
        "gemma3_text",
        {"_sliding_window_pattern": 2, "attn_logit_softcapping": None, "cache_implementation": "x"},
    ),
    "StarCoder 2": (
        "starcoder2",
        {"activation_function": "gelu", "attention_softmax_in_fp32": True, "embedding_dropout": 0.1}
        | {"layer_norm_epsilon": 1e-5, "norm_epsilon": 1e-5, "mlp_type": "default", "norm_type": "layer_norm"}
        | {"scale_attention_softmax_in_fp32": True, "scale_attn_weights": True},
    ),
    "BLOOM": (
        "bloom",
        {"attention_softmax_in_fp32": True, "bias_dropout_fusion": True, "masked_softmax_fusion": True, "n_inner": None}
        | {"offset_alibi": 100, "pretraining_tp": 4, "skip_bias_add": True, "skip_bias_add_qkv": False}
        | {"seq_length": 2048, "unk_token_id": 0, "num_attention_heads": 3},
    ),
    "GPT-2": (
        "gpt2",
        {"n_ctx": 1024, "summary_type": "cls_index", "summary_use_proj": True, "summary_first_dropout": 0.1}
        | {"task_specific_params": {"text-generation": {"do_sample": True}}, "reorder_and_upcast_attn": False},
    ),
    "OPT": ("opt", {"activation_dropout": 0.0, "prefix": "</s>", "layerdrop": 0.0, "_remove_final_layer_norm": False}),
    "Falcon": ("falcon", {"apply_residual_connection_post_layernorm": False, "alibi": False, "multi_query": True}),
    "MPT": (
        "mpt",
        {"init_config": {"name": "kaiming_normal_"}, "tokenizer_name": "x", "verbose": 0, "no_bias": True}
        | {"norm_type": "low_precision_layernorm", "logit_scale": None, "learned_pos_emb": True}
        | {
            "attn_config": {
                "alibi": True,
                "alibi_bias_max": 8,
                "attn_impl": "triton",
                "attn_type": "multihead_attention",
            }
        },
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_fields_of_published_checkpoints_are_known(name: str) -> None:
    model_type, published = PUBLISHED[name]
    assert len(logits(SMALL[model_type] | published)) == 20


def test_a_quantised_checkpoint_is_called_so() -> None:
    for said in ({"quantization_config": {"quant_method": "fp8"}}, {"quantization": {"bits": 4}}):
        with pytest.raises(BadInput, match="this checkpoint is quantised"):
            oracle_for(LLAMA | said, parameters(LLAMA))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rope_parameters": {"rope_type": "default"}, "rope_scaling": LINEAR}, "rope_scaling has factor = 2.0"),
        ({"rope_parameters": LINEAR, "rope_scaling": LINEAR | {"factor": 4.0}}, r"factor = 2\.0.*factor = 4\.0"),
        ({"rope_parameters": LINEAR, "rope_scaling": LINEAR | {"rope_type": "dynamic"}}, "'linear'.*'dynamic'"),
        ({"rope_parameters": {"rope_theta": 1e4}, "rope_theta": 5e5}, r"rope_theta = 500000\.0.*10000\.0"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}, "partial_rotary_factor": 1.0}, "partial_rotary_factor"),
        ({"rope_scaling": LINEAR | {"turns": 3}}, "turns"),
        ({"rope_scaling": {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}}, "list of 6"),
    ],
)
def test_two_rotary_spellings_that_disagree_are_refused_naming_both(change: dict[str, Any], words: str) -> None:
    config = {key: value for key, value in LLAMA.items() if key != "rope_theta"} | change
    with pytest.raises(BadInput, match=words):
        oracle_for(config, parameters(LLAMA))


def test_two_rotary_spellings_that_agree_are_one() -> None:
    bare = {key: value for key, value in LLAMA.items() if key != "rope_theta"}
    new = bare | {"rope_parameters": LINEAR | {"rope_theta": 500.0}}
    both = new | {"rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 2.0}}
    old = bare | {"rope_theta": 500.0, "rope_scaling": LINEAR}
    np.testing.assert_array_equal(logits(new), logits(old))
    np.testing.assert_array_equal(logits(new), logits(both))


def test_two_names_of_one_field_that_disagree_are_refused() -> None:
    with pytest.raises(BadInput, match=r"n_embd = 32, yet hidden_size = 48"):
        oracle_for(SMALL["gpt2"] | {"hidden_size": 48}, parameters(SMALL["gpt2"]))


@pytest.mark.parametrize("name", ["mistral", "gemma2"])
def test_null_is_not_absent(name: str) -> None:
    """A window that is null is none; one that is absent is what the architecture has by default."""
    weights = parameters(SMALL[name])
    without = {key: value for key, value in SMALL[name].items() if key != "sliding_window"}
    oracles: list[Any] = [oracle_for(each, weights) for each in (without | {"sliding_window": None}, without)]
    assert [oracle.layer_window(0) for oracle in oracles] == [None, 4096]


def test_what_loaders_leave_aside_is_not_missed() -> None:
    """Masks, rotary tables, a head beside tied embeddings: stored by old checkpoints, and no weight of the model."""
    config = SMALL["gpt_neox"] | {"tie_word_embeddings": True}
    weights = parameters(config)
    more: dict[str, Any] = {
        "gpt_neox.layers.0.attention.bias": np.tri(8, dtype=bool)[None, None],
        "gpt_neox.layers.0.attention.masked_bias": np.array(-1e9, np.float32),
        "gpt_neox.layers.0.attention.rotary_emb.inv_freq": np.ones(4, np.float32),
        "embed_out.weight": weights["gpt_neox.embed_in.weight"],
    }
    plain, stored = oracle_for(config, weights), oracle_for(config, weights | more)
    np.testing.assert_array_equal(plain.logits(IDS), stored.logits(IDS))
    assert parameters_of(config, weights | more) == sum(each.size for each in weights.values())
    with pytest.raises(BadInput, match=r"embed_out\.weight differs"):
        oracle_for(config, weights | {"embed_out.weight": weights["gpt_neox.embed_in.weight"] + 1})
    with pytest.raises(BadInput, match=r"not used gpt_neox\.layers\.0\.attention\.scale"):
        oracle_for(config, weights | {"gpt_neox.layers.0.attention.scale": np.ones(1, np.float32)})


def test_both_names_of_a_head_are_read() -> None:
    config = SMALL["gpt_neox"]
    weights = parameters(config)
    other = {{"embed_out.weight": "lm_head.weight"}.get(name, name): values for name, values in weights.items()}
    np.testing.assert_array_equal(oracle_for(config, weights).logits(IDS), oracle_for(config, other).logits(IDS))


def test_what_was_read_is_recorded() -> None:
    fields = Fields({"a": 3, "c": None, "model_type": "x"})
    assert (fields.integer("a"), fields.number("b", default=0.5), fields.optional_integer("c", default=2)) == (
        3,
        0.5,
        None,
    )
    assert {name: (field.kind, field.value, field.default) for name, field in fields.read.items()} == {
        "a": ("integer", 3, None),
        "b": ("number", 0.5, 0.5),
        "c": ("integer", None, 2),
    }
    fields.finish()


def test_what_transformers_4_writes_into_the_attention_of_mpt_is_no_field_of_it() -> None:
    plain = SMALL["mpt"]
    written = plain | {"attn_config": plain["attn_config"] | {"model_type": "", "tie_word_embeddings": True}}
    np.testing.assert_array_equal(logits(written), logits(plain))
