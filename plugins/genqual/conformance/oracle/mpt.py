"""MPT: ALiBi, layer norms without biases, clipped projections where the checkpoint has them."""

from __future__ import annotations

import numpy as np

from genqual.conformance.oracle.attention import Attention, Blocks
from genqual.conformance.oracle.core import F64
from genqual.conformance.oracle.fields import Fields, divided
from genqual.conformance.oracle.linear import Linear
from genqual.conformance.oracle.mlp import Mlp, gelu
from genqual.conformance.oracle.norms import layer_norm
from genqual.conformance.oracle.spec import Architecture, Block, Embedding, Head, Model
from genqual.errors import BadInput


def build(fields: Fields) -> Model:
    """The model of one configuration. Raises BadInput on fields that do not fit."""
    hidden, vocabulary = fields.integer("d_model", "hidden_size"), fields.integer("vocab_size")
    heads = fields.integer("n_heads", "num_attention_heads")
    width = divided("d_model over n_heads", hidden, heads)
    eps = fields.number("layer_norm_epsilon", default=1e-5)
    fields.same("expansion_ratio", 4, "loaders take no other")
    fields.same("no_bias", True, "loaders have no biases")
    fields.same("logit_scale", None, "loaders ignore it")
    fields.skip("learned_pos_emb", "embedding_fraction")  # neither counts beside ALiBi and at inference
    if "layernorm" not in str(fields.config.get("norm_type", "layernorm")):
        raise BadInput(f"config norm_type = {fields.config['norm_type']!r}: the mpt oracle knows layer norms only")
    fields.skip("norm_type", "verbose")
    said = Fields({"model_type": "mpt", **(fields.mapping("attn_config") or {})})
    scale, clip = said.optional_number("softmax_scale"), said.optional_number("clip_qkv")
    _only_common(said)

    def block(name: str) -> Block:
        return Block(
            mixer_before=layer_norm(f"{name}.norm_1", hidden, eps, bias=False),
            mixer=Attention(
                Blocks(Linear(f"{name}.attn.Wqkv", 3 * hidden, hidden), hidden, hidden),
                Linear(f"{name}.attn.out_proj", hidden, hidden),
                heads,
                heads,
                width,
                slopes=mpt_slopes(heads),
                scale=scale,
                clip=clip or None,
            ),
            mlp_before=layer_norm(f"{name}.norm_2", hidden, eps, bias=False),
            mlp=Mlp(
                Linear(f"{name}.ffn.up_proj", 4 * hidden, hidden),
                Linear(f"{name}.ffn.down_proj", hidden, 4 * hidden),
                gelu,
            ),
        )

    tied = fields.flag("tie_word_embeddings", default=True)
    table = "transformer.wte.weight"
    return Model(
        Embedding(table, vocabulary, hidden),
        tuple(block(f"transformer.blocks.{i}") for i in range(fields.integer("n_layers", "num_hidden_layers"))),
        Head(
            table if tied else "lm_head.weight",
            vocabulary,
            hidden,
            norm=layer_norm("transformer.norm_f", hidden, eps, bias=False),
            tied=tied,
        ),
    )


def _only_common(said: Fields) -> None:
    """Raises BadInput on attention that no loader computes for this architecture."""
    said.same("attn_type", "multihead_attention", "loaders take no other")
    said.same("alibi", True, "loaders always add it")
    said.same("alibi_bias_max", 8, "loaders take no other")
    said.same("qk_ln", False, "loaders have no such norms")
    said.same("prefix_lm", False, "a decoder is causal")
    # As a dictionary of its own, transformers 4 writes the last one into it, where it says nothing of the head.
    said.skip("attn_impl", "attn_uses_sequence_id", "tie_word_embeddings")
    said.finish()


def mpt_slopes(heads: int) -> F64:
    """Slopes of each head, (heads,): those of the next power of two, every second one first."""
    power = 1 << (heads - 1).bit_length()
    slopes = 2.0 ** (-8.0 * np.arange(1, power + 1) / power)
    return slopes if power == heads else np.concatenate([slopes[1::2], slopes[::2]])[:heads]


ARCHITECTURE = Architecture(
    model_type="mpt",
    build=build,
    source="MosaicML 2023 (MPT-7B); Press et al. 2022 (ALiBi)",
    prefix="transformer.",
    ignores=("intermediate_size", "num_key_value_heads", "rms_norm_eps"),
)
