"""GPT-NeoX and Pythia: partial rotation, attention and MLP beside each other, per-head interleaved projections."""

from __future__ import annotations

from genqual.conformance.oracle.attention import Attention, Groups
from genqual.conformance.oracle.fields import Fields, divided
from genqual.conformance.oracle.linear import Linear
from genqual.conformance.oracle.mlp import ACTIVATIONS, Mlp
from genqual.conformance.oracle.norms import layer_norm
from genqual.conformance.oracle.rotary_fields import rotary_of
from genqual.conformance.oracle.spec import Architecture, Block, Embedding, Head, Model


def build(fields: Fields) -> Model:
    """The model of one configuration. Raises BadInput on fields that do not fit."""
    hidden, vocabulary = fields.integer("hidden_size"), fields.integer("vocab_size")
    heads, inner = fields.integer("num_attention_heads"), fields.integer("intermediate_size")
    width = divided("hidden_size over num_attention_heads", hidden, heads)
    eps = fields.number("layer_norm_eps", default=1e-5)
    bias = fields.flag("attention_bias", default=True)
    parallel = fields.flag("use_parallel_residual", default=True)
    activation = fields.choice("hidden_act", default="gelu", among=tuple(ACTIVATIONS))
    rotary = rotary_of(
        fields,
        width,
        theta_names=("rotary_emb_base", "rope_theta"),
        share=0.25,
        share_names=("rotary_pct", "partial_rotary_factor"),
    )

    def block(name: str) -> Block:
        fused = Linear(f"{name}.attention.query_key_value", 3 * hidden, hidden, bias)
        return Block(
            mixer_before=layer_norm(f"{name}.input_layernorm", hidden, eps),
            mixer=Attention(
                Groups(fused, heads, 1, width),
                Linear(f"{name}.attention.dense", hidden, hidden, bias),
                heads,
                heads,
                width,
                rotary=rotary,
            ),
            mlp_before=layer_norm(f"{name}.post_attention_layernorm", hidden, eps),
            mlp=Mlp(
                Linear(f"{name}.mlp.dense_h_to_4h", inner, hidden, bias=True),
                Linear(f"{name}.mlp.dense_4h_to_h", hidden, inner, bias=True),
                ACTIVATIONS[activation],
            ),
            parallel=parallel,
        )

    tied = fields.flag("tie_word_embeddings", default=False)
    table = "gpt_neox.embed_in.weight"
    own = "lm_head.weight" if "lm_head.weight" in fields.stored else "embed_out.weight"
    return Model(
        Embedding(table, vocabulary, hidden),
        tuple(block(f"gpt_neox.layers.{index}") for index in range(fields.integer("num_hidden_layers"))),
        Head(
            table if tied else own,
            vocabulary,
            hidden,
            norm=layer_norm("gpt_neox.final_layer_norm", hidden, eps),
            tied=tied,
        ),
        settled_length=rotary.settled_length,
    )


ARCHITECTURE = Architecture(
    model_type="gpt_neox",
    build=build,
    source="Black et al. 2022 (GPT-NeoX-20B); Biderman et al. 2023 (Pythia)",
    prefix="gpt_neox.",
    ignores=("num_key_value_heads",),
)
