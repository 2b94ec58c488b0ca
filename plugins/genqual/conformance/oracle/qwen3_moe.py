"""Qwen3's mixture of experts: query-key norms, a mixture in every layer or in some."""

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


def build(fields: Fields) -> Model:
    """The model of one configuration. Raises BadInput on fields that do not fit."""
    hidden, vocabulary = fields.integer("hidden_size"), fields.integer("vocab_size")
    inner, expert_inner = fields.integer("intermediate_size"), fields.integer("moe_intermediate_size", default=768)
    heads = fields.integer("num_attention_heads")
    kv_heads = fields.integer("num_key_value_heads", default=4)
    divided("num_attention_heads over num_key_value_heads", heads, kv_heads)
    width = fields.integer("head_dim", default=hidden // heads)
    eps = fields.number("rms_norm_eps", default=1e-6)
    bias = fields.flag("attention_bias", default=False)
    window = fields.optional_integer("sliding_window", default=4096)
    window = window if fields.flag("use_sliding_window", default=False) else None
    fields.skip("max_window_layers")  # this architecture windows every layer or none
    experts = fields.integer("num_experts", "num_local_experts", default=128)
    router = Router(
        fields.integer("num_experts_per_tok", default=8), normalise=fields.flag("norm_topk_prob", default=False)
    )
    every, dense = fields.integer("decoder_sparse_step", default=1), fields.layers("mlp_only_layers")
    activation = fields.choice("hidden_act", default="silu", among=tuple(ACTIVATIONS))
    tied = fields.flag("tie_word_embeddings", default=False)
    rotary = rotary_of(fields, width)

    def mlp(index: int, name: str) -> Part:
        if index in dense or (index + 1) % every:
            return gated(name, inner, hidden, activation)
        parts = separate(f"{name}.experts", experts, expert_inner, hidden, activation)
        return Mixture(Linear(f"{name}.gate", experts, hidden), router, parts)

    def block(index: int) -> Block:
        name = f"model.layers.{index}"
        return Block(
            mixer_before=Norm(f"{name}.input_layernorm", hidden, eps),
            mixer=grouped(
                f"{name}.self_attn",
                hidden,
                heads,
                kv_heads,
                width,
                bias=bias,
                out_bias=bias,
                rotary=rotary,
                window=window,
                query_norm=Norm(f"{name}.self_attn.q_norm", width, eps),
                key_norm=Norm(f"{name}.self_attn.k_norm", width, eps),
            ),
            mlp_before=Norm(f"{name}.post_attention_layernorm", hidden, eps),
            mlp=mlp(index, f"{name}.mlp"),
        )

    table = "model.embed_tokens.weight"
    return Model(
        Embedding(table, vocabulary, hidden),
        tuple(block(i) for i in range(fields.integer("num_hidden_layers"))),
        Head(table if tied else "lm_head.weight", vocabulary, hidden, norm=Norm("model.norm", hidden, eps), tied=tied),
        settled_length=rotary.settled_length,
    )


ARCHITECTURE = Architecture(
    model_type="qwen3_moe",
    build=build,
    source="Qwen team 2025; Shazeer et al. 2017",
    ignores=("router_aux_loss_coef", "output_router_logits"),  # losses of training
    stored=Stacked(),
)
