"""Mixtral: Mistral with a mixture of experts in every layer, whose chosen weights sum to one."""

from __future__ import annotations

from genqual.conformance.oracle.experts import Mixture, SeparateExperts
from genqual.conformance.oracle.fields import Fields, divided
from genqual.conformance.oracle.grouped import grouped
from genqual.conformance.oracle.linear import Linear
from genqual.conformance.oracle.mlp import ACTIVATIONS, GatedMlp
from genqual.conformance.oracle.norms import Norm
from genqual.conformance.oracle.rotary_fields import rotary_of
from genqual.conformance.oracle.router import Router
from genqual.conformance.oracle.spec import Architecture, Block, Embedding, Head, Model
from genqual.conformance.oracle.stacked import Stacked


def build(fields: Fields) -> Model:
    """The model of one configuration. Raises BadInput on fields that do not fit."""
    hidden, vocabulary = fields.integer("hidden_size"), fields.integer("vocab_size")
    inner = fields.integer("intermediate_size")
    heads = fields.integer("num_attention_heads")
    kv_heads = fields.integer("num_key_value_heads", default=heads)
    divided("num_attention_heads over num_key_value_heads", heads, kv_heads)
    width = fields.integer("head_dim", default=hidden // heads)
    eps = fields.number("rms_norm_eps", default=1e-5)
    window = fields.optional_integer("sliding_window")
    experts = fields.integer("num_local_experts", "num_experts", default=8)
    router = Router(fields.integer("num_experts_per_tok", default=2), normalise=True)
    activation = ACTIVATIONS[fields.choice("hidden_act", default="silu", among=tuple(ACTIVATIONS))]
    tied = fields.flag("tie_word_embeddings", default=False)
    rotary = rotary_of(fields, width, theta=1e6)

    def expert(name: str) -> GatedMlp:
        gate, up, down = Linear(f"{name}.w1", inner, hidden), Linear(f"{name}.w3", inner, hidden), f"{name}.w2"
        return GatedMlp(gate, up, Linear(down, hidden, inner), activation)

    def block(name: str) -> Block:
        moe = f"{name}.block_sparse_moe"
        return Block(
            mixer_before=Norm(f"{name}.input_layernorm", hidden, eps),
            mixer=grouped(f"{name}.self_attn", hidden, heads, kv_heads, width, rotary=rotary, window=window),
            mlp_before=Norm(f"{name}.post_attention_layernorm", hidden, eps),
            mlp=Mixture(
                Linear(f"{moe}.gate", experts, hidden),
                router,
                SeparateExperts(tuple(expert(f"{moe}.experts.{i}") for i in range(experts))),
            ),
        )

    table = "model.embed_tokens.weight"
    return Model(
        Embedding(table, vocabulary, hidden),
        tuple(block(f"model.layers.{i}") for i in range(fields.integer("num_hidden_layers"))),
        Head(table if tied else "lm_head.weight", vocabulary, hidden, norm=Norm("model.norm", hidden, eps), tied=tied),
        settled_length=rotary.settled_length,
    )


ARCHITECTURE = Architecture(
    model_type="mixtral",
    build=build,
    source="Jiang et al. 2024; Jiang et al. 2023 (windows)",
    # Losses and noise of training.
    ignores=("router_aux_loss_coef", "router_jitter_noise", "output_router_logits"),
    stored=Stacked("w1", "w3", "w2", renamed=((".block_sparse_moe.", ".mlp."),)),
)
