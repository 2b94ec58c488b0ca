"""Qwen2's mixture of experts: biased queries, keys and values, and a shared expert behind a gate of its own."""

from __future__ import annotations

from genqual.conformance.oracle.core import Part
from genqual.conformance.oracle.experts import Mixture, separate
from genqual.conformance.oracle.fields import Fields, divided
from genqual.conformance.oracle.grouped import grouped
from genqual.conformance.oracle.linear import Linear
from genqual.conformance.oracle.mlp import ACTIVATIONS, gated
from genqual.conformance.oracle.norms import Norm
from genqual.conformance.oracle.rotary_fields import rotary_of
from genqual.conformance.oracle.router import Router
from genqual.conformance.oracle.spec import Architecture, Block, Embedding, Head, Model
from genqual.conformance.oracle.stacked import Stacked
from genqual.errors import BadInput


def build(fields: Fields) -> Model:
    """The model of one configuration. Raises BadInput on fields that do not fit."""
    hidden, vocabulary = fields.integer("hidden_size"), fields.integer("vocab_size")
    count = fields.integer("num_hidden_layers")
    inner, expert_inner = fields.integer("intermediate_size"), fields.integer("moe_intermediate_size", default=1408)
    shared_inner = fields.integer("shared_expert_intermediate_size", default=5632)
    heads = fields.integer("num_attention_heads")
    kv_heads = fields.integer("num_key_value_heads", default=heads)
    divided("num_attention_heads over num_key_value_heads", heads, kv_heads)
    width = fields.integer("head_dim", default=hidden // heads)
    eps = fields.number("rms_norm_eps", default=1e-6)
    bias = fields.flag("qkv_bias", default=True)
    windows = _windows(fields, count)
    experts = fields.integer("num_experts", "num_local_experts", default=60)
    router = Router(
        fields.integer("num_experts_per_tok", default=4), normalise=fields.flag("norm_topk_prob", default=False)
    )
    every, dense = fields.integer("decoder_sparse_step", default=1), fields.layers("mlp_only_layers")
    activation = fields.choice("hidden_act", default="silu", among=tuple(ACTIVATIONS))
    tied = fields.flag("tie_word_embeddings", default=False)
    rotary = rotary_of(fields, width)

    def mlp(index: int, name: str) -> Part:
        if index in dense or (index + 1) % every:
            return gated(name, inner, hidden, activation)
        return Mixture(
            Linear(f"{name}.gate", experts, hidden),
            router,
            separate(f"{name}.experts", experts, expert_inner, hidden, activation),
            shared=gated(f"{name}.shared_expert", shared_inner, hidden, activation),
            shared_gate=Linear(f"{name}.shared_expert_gate", 1, hidden),
        )

    def block(index: int) -> Block:
        name, window = f"model.layers.{index}", windows[index]
        return Block(
            mixer_before=Norm(f"{name}.input_layernorm", hidden, eps),
            mixer=grouped(f"{name}.self_attn", hidden, heads, kv_heads, width, bias=bias, rotary=rotary, window=window),
            mlp_before=Norm(f"{name}.post_attention_layernorm", hidden, eps),
            mlp=mlp(index, f"{name}.mlp"),
        )

    table = "model.embed_tokens.weight"
    return Model(
        Embedding(table, vocabulary, hidden),
        tuple(block(i) for i in range(count)),
        Head(table if tied else "lm_head.weight", vocabulary, hidden, norm=Norm("model.norm", hidden, eps), tied=tied),
        settled_length=rotary.settled_length,
    )


def _windows(fields: Fields, count: int) -> list[int | None]:
    """The window of each layer. Raises BadInput where windows are on and no field says of which layers."""
    window = fields.natural("sliding_window", default=4096) or None  # transformers writes 0 where it is not used
    used = fields.flag("use_sliding_window", default=False)
    kinds = fields.words("layer_types", count=count, among=("full_attention", "sliding_attention"))
    fields.skip("max_window_layers")
    if not used or window is None:
        if kinds and "sliding_attention" in kinds:
            raise BadInput(
                f"config layer_types has sliding_attention, yet use_sliding_window = {used} and sliding_window = "
                f"{window}: which layers have a window is not defined; make them agree"
            )
        return [None] * count
    if kinds is None:
        raise BadInput(
            "config use_sliding_window = True without layer_types: releases of transformers disagree which layers of "
            "this architecture then have a window (all, those from max_window_layers on, or every second one); say it "
            "by layer_types"
        )
    return [window if kind == "sliding_attention" else None for kind in kinds]


ARCHITECTURE = Architecture(
    model_type="qwen2_moe",
    build=build,
    source="Qwen team 2024 (Qwen1.5-MoE, Qwen2 report); Shazeer et al. 2017",
    ignores=("router_aux_loss_coef", "output_router_logits"),  # losses of training
    stored=Stacked(),
)
