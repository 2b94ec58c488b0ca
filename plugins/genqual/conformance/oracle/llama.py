"""Llama: root-mean-square norms, rotary positions, grouped queries, gated MLP."""

from __future__ import annotations

from genqual.conformance.oracle.attention import Attention, Separate
from genqual.conformance.oracle.fields import Fields, divided
from genqual.conformance.oracle.linear import Linear
from genqual.conformance.oracle.mlp import ACTIVATIONS, gated
from genqual.conformance.oracle.norms import Norm
from genqual.conformance.oracle.rotary_fields import rotary_of
from genqual.conformance.oracle.spec import Architecture, Block, Embedding, Head, Model


def build(fields: Fields) -> Model:
    """The model of one configuration. Raises BadInput on fields that do not fit."""
    hidden, vocabulary = fields.integer("hidden_size"), fields.integer("vocab_size")
    inner = fields.integer("intermediate_size")
    heads = fields.integer("num_attention_heads")
    kv_heads = fields.integer("num_key_value_heads", default=heads)
    divided("num_attention_heads over num_key_value_heads", heads, kv_heads)
    width = fields.integer("head_dim", default=hidden // heads)
    eps = fields.number("rms_norm_eps", default=1e-6)
    bias = fields.flag("attention_bias", default=False)
    mlp_bias = fields.flag("mlp_bias", default=False)
    activation = fields.choice("hidden_act", default="silu", among=tuple(ACTIVATIONS))
    tied = fields.flag("tie_word_embeddings", default=False)
    rotary = rotary_of(fields, width)

    def block(name: str) -> Block:
        attention = f"{name}.self_attn"
        return Block(
            mixer_before=Norm(f"{name}.input_layernorm", hidden, eps),
            mixer=Attention(
                Separate(
                    Linear(f"{attention}.q_proj", heads * width, hidden, bias),
                    Linear(f"{attention}.k_proj", kv_heads * width, hidden, bias),
                    Linear(f"{attention}.v_proj", kv_heads * width, hidden, bias),
                ),
                Linear(f"{attention}.o_proj", hidden, heads * width, bias),
                heads,
                kv_heads,
                width,
                rotary=rotary,
            ),
            mlp_before=Norm(f"{name}.post_attention_layernorm", hidden, eps),
            mlp=gated(f"{name}.mlp", inner, hidden, activation, bias=mlp_bias),
        )

    table = "model.embed_tokens.weight"
    return Model(
        Embedding(table, vocabulary, hidden),
        tuple(block(f"model.layers.{i}") for i in range(fields.integer("num_hidden_layers"))),
        Head(table if tied else "lm_head.weight", vocabulary, hidden, norm=Norm("model.norm", hidden, eps), tied=tied),
        settled_length=rotary.settled_length,
    )


ARCHITECTURE = Architecture(
    model_type="llama",
    build=build,
    source="Touvron et al. 2023; Ainslie et al. 2023; rotary halves in the layout of the Hugging Face checkpoints",
)
