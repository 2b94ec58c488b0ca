"""OPT: learned positions from 2 on, ReLU MLP, norms before or after, a narrower table where the checkpoint has one."""

from __future__ import annotations

from genqual.conformance.oracle.attention import Attention, Separate
from genqual.conformance.oracle.fields import Fields, divided
from genqual.conformance.oracle.linear import Linear
from genqual.conformance.oracle.mlp import ACTIVATIONS, Mlp
from genqual.conformance.oracle.norms import Norm
from genqual.conformance.oracle.spec import Architecture, Block, Embedding, Head, Model

_EPS = 1e-5  # no field says it
_OFFSET = 2  # the first two rows of the table are those of padding


def build(fields: Fields) -> Model:
    """The model of one configuration. Raises BadInput on fields that do not fit."""
    hidden, vocabulary = fields.integer("hidden_size"), fields.integer("vocab_size")
    heads, inner = fields.integer("num_attention_heads"), fields.integer("ffn_dim")
    width = divided("hidden_size over num_attention_heads", hidden, heads)
    narrow = fields.integer("word_embed_proj_dim", default=hidden)
    before = fields.flag("do_layer_norm_before", default=True)
    bias = fields.flag("enable_bias", default=True)
    affine = fields.flag("layer_norm_elementwise_affine", default=True)
    last = before and not fields.flag("_remove_final_layer_norm", default=False)
    activation = fields.choice("activation_function", default="relu", among=tuple(ACTIVATIONS))
    stem = "model.decoder"

    def norm(name: str) -> Norm:
        return Norm(name, hidden, _EPS, kind="layer", bias=affine, scaled=affine)

    def block(name: str) -> Block:
        attention = f"{name}.self_attn"
        query, key, value = (Linear(f"{attention}.{part}_proj", hidden, hidden, bias) for part in "qkv")
        first, second = norm(f"{name}.self_attn_layer_norm"), norm(f"{name}.final_layer_norm")
        return Block(
            mixer_before=first if before else None,
            mixer=Attention(
                Separate(query, key, value),
                Linear(f"{attention}.out_proj", hidden, hidden, bias),
                heads,
                heads,
                width,
            ),
            mixer_after=None if before else first,
            mlp_before=second if before else None,
            mlp=Mlp(
                Linear(f"{name}.fc1", inner, hidden, bias),
                Linear(f"{name}.fc2", hidden, inner, bias),
                ACTIVATIONS[activation],
            ),
            mlp_after=None if before else second,
            sum_norms=True,
        )

    tied = fields.flag("tie_word_embeddings", default=True)
    table = f"{stem}.embed_tokens.weight"
    return Model(
        Embedding(
            table,
            vocabulary,
            narrow,
            positions=f"{stem}.embed_positions.weight",
            longest=fields.integer("max_position_embeddings", default=2048),
            offset=_OFFSET,
            projection=Linear(f"{stem}.project_in", hidden, narrow) if narrow != hidden else None,
        ),
        tuple(block(f"{stem}.layers.{index}") for index in range(fields.integer("num_hidden_layers"))),
        Head(
            table if tied else "lm_head.weight",
            vocabulary,
            narrow,
            norm=norm(f"{stem}.final_layer_norm") if last else None,
            projection=Linear(f"{stem}.project_out", narrow, hidden) if narrow != hidden else None,
            tied=tied,
        ),
    )


ARCHITECTURE = Architecture(
    model_type="opt",
    build=build,
    source="Zhang et al. 2022 (OPT)",
    ignores=("intermediate_size", "num_key_value_heads", "rms_norm_eps"),
)
