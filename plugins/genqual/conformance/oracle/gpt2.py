"""GPT-2: learned positions, layer norms before, one projection stored the other way round, plain MLP."""

from __future__ import annotations

from genqual.conformance.oracle.attention import Attention, Blocks
from genqual.conformance.oracle.fields import Fields, divided
from genqual.conformance.oracle.linear import Linear
from genqual.conformance.oracle.mlp import ACTIVATIONS, Mlp
from genqual.conformance.oracle.norms import layer_norm
from genqual.conformance.oracle.spec import Architecture, Block, Embedding, Head, Model


def build(fields: Fields) -> Model:
    """The model of one configuration. Raises BadInput on fields that do not fit."""
    hidden, vocabulary = fields.integer("n_embd", "hidden_size"), fields.integer("vocab_size")
    heads = fields.integer("n_head", "num_attention_heads")
    width = divided("n_embd over n_head", hidden, heads)
    inner = fields.integer("n_inner", default=4 * hidden)
    eps = fields.number("layer_norm_epsilon", default=1e-5)
    activation = fields.choice("activation_function", default="gelu_new", among=tuple(ACTIVATIONS))
    scaled = fields.flag("scale_attn_weights", default=True)
    by_layer = fields.flag("scale_attn_by_inverse_layer_idx", default=False)
    fields.skip("reorder_and_upcast_attn")  # the same in exact arithmetic

    def block(name: str, index: int) -> Block:
        scale = (width**-0.5 if scaled else 1.0) / (index + 1 if by_layer else 1)
        return Block(
            mixer_before=layer_norm(f"{name}.ln_1", hidden, eps),
            mixer=Attention(
                Blocks(Linear(f"{name}.attn.c_attn", 3 * hidden, hidden, bias=True, transposed=True), hidden, hidden),
                Linear(f"{name}.attn.c_proj", hidden, hidden, bias=True, transposed=True),
                heads,
                heads,
                width,
                scale=scale,
            ),
            mlp_before=layer_norm(f"{name}.ln_2", hidden, eps),
            mlp=Mlp(
                Linear(f"{name}.mlp.c_fc", inner, hidden, bias=True, transposed=True),
                Linear(f"{name}.mlp.c_proj", hidden, inner, bias=True, transposed=True),
                ACTIVATIONS[activation],
            ),
        )

    tied = fields.flag("tie_word_embeddings", default=True)
    longest = fields.integer("n_positions", "max_position_embeddings", default=1024)
    table = "transformer.wte.weight"
    return Model(
        Embedding(table, vocabulary, hidden, positions="transformer.wpe.weight", longest=longest),
        tuple(
            block(f"transformer.h.{index}", index) for index in range(fields.integer("n_layer", "num_hidden_layers"))
        ),
        Head(
            table if tied else "lm_head.weight",
            vocabulary,
            hidden,
            norm=layer_norm("transformer.ln_f", hidden, eps),
            tied=tied,
        ),
    )


ARCHITECTURE = Architecture(
    model_type="gpt2",
    build=build,
    source="Radford et al. 2019 (GPT-2)",
    prefix="transformer.",
    ignores=("intermediate_size", "num_key_value_heads"),
)
