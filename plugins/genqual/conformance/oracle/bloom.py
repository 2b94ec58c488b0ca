"""BLOOM: ALiBi over fused projections, a norm after the embedding, either residual order."""

from __future__ import annotations

from genqual.conformance.oracle.attention import Attention, Groups, alibi_slopes
from genqual.conformance.oracle.fields import Fields, divided
from genqual.conformance.oracle.linear import Linear
from genqual.conformance.oracle.mlp import Mlp, gelu_megatron
from genqual.conformance.oracle.norms import layer_norm
from genqual.conformance.oracle.spec import Architecture, Block, Embedding, Head, Model


def build(fields: Fields) -> Model:
    """The model of one configuration. Raises BadInput on fields that do not fit."""
    hidden, vocabulary = fields.integer("n_embed", "hidden_size"), fields.integer("vocab_size")
    heads = fields.integer("n_head", "num_attention_heads")
    width = divided("hidden_size over n_head", hidden, heads)
    eps = fields.number("layer_norm_epsilon", default=1e-5)
    of_norm = fields.flag("apply_residual_connection_post_layernorm", default=False)
    tied = fields.flag("tie_word_embeddings", default=True)

    def block(name: str) -> Block:
        # The fused rows are (head, query | key | value, width), not three blocks of all heads.
        fused = Linear(f"{name}.self_attention.query_key_value", 3 * hidden, hidden, bias=True)
        return Block(
            mixer_before=layer_norm(f"{name}.input_layernorm", hidden, eps),
            mixer=Attention(
                Groups(fused, heads, 1, width),
                Linear(f"{name}.self_attention.dense", hidden, hidden, bias=True),
                heads,
                heads,
                width,
                slopes=alibi_slopes(heads),
            ),
            mlp_before=layer_norm(f"{name}.post_attention_layernorm", hidden, eps),
            mlp=Mlp(
                Linear(f"{name}.mlp.dense_h_to_4h", 4 * hidden, hidden, bias=True),
                Linear(f"{name}.mlp.dense_4h_to_h", hidden, 4 * hidden, bias=True),
                gelu_megatron,
            ),
            residual_of_norm=of_norm,
        )

    table = "transformer.word_embeddings.weight"
    return Model(
        Embedding(table, vocabulary, hidden, norm=layer_norm("transformer.word_embeddings_layernorm", hidden, eps)),
        tuple(block(f"transformer.h.{i}") for i in range(fields.integer("n_layer", "num_hidden_layers"))),
        Head(
            table if tied else "lm_head.weight",
            vocabulary,
            hidden,
            norm=layer_norm("transformer.ln_f", hidden, eps),
            tied=tied,
        ),
    )


ARCHITECTURE = Architecture(
    model_type="bloom",
    build=build,
    source="BigScience 2022 (per-head interleaved query-key-value, Megatron's GELU); Press et al. 2022 (ALiBi)",
    prefix="transformer.",
    ignores=("n_inner",),
)
