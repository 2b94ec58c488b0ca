"""LFM2: short convolutions between two gates, a few layers of grouped attention with normed heads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from genqual.conformance.oracle.attention import Attention, Separate
from genqual.conformance.oracle.convolution import Convolution
from genqual.conformance.oracle.core import F64, At, Part, Shape
from genqual.conformance.oracle.fields import Fields, divided
from genqual.conformance.oracle.linear import Linear
from genqual.conformance.oracle.mlp import GatedMlp, silu
from genqual.conformance.oracle.norms import Norm
from genqual.conformance.oracle.rotary_fields import rotary_of
from genqual.conformance.oracle.spec import Architecture, Block, Embedding, Head, Model
from genqual.errors import BadInput

KINDS = ("full_attention", "conv")


@dataclass(frozen=True)
class GatedConvolution(Part):
    """`into` gives two gates and an input; the input times the first is convolved, and the result times the second."""

    into: Linear
    convolution: Convolution
    out: Linear

    def shapes(self) -> dict[str, Shape]:
        return self.into.shapes() | self.convolution.shapes() | self.out.shapes()

    def ends(self) -> tuple[str, str]:
        return self.into.name, self.out.name

    def state_elements(self, length: int) -> int:
        return self.convolution.state_elements(length)

    def __call__(self, x: F64, at: At) -> F64:
        """`x` (tokens, hidden) -> (tokens, hidden)."""
        before, after, inner = np.split(self.into(x, at), 3, axis=-1)
        return self.out(after * self.convolution(before * inner, at), at)


def build(fields: Fields) -> Model:
    """The model of one configuration. Raises BadInput on fields that do not fit."""
    hidden, vocabulary = fields.integer("hidden_size", "block_dim"), fields.integer("vocab_size")
    count = fields.integer("num_hidden_layers")
    heads = fields.integer("num_attention_heads", "num_heads")
    kv_heads = fields.integer("num_key_value_heads", default=heads)
    divided("num_attention_heads over num_key_value_heads", heads, kv_heads)
    width = fields.integer("head_dim", default=hidden // heads)
    eps = fields.number("norm_eps", "block_norm_eps", default=1e-5)
    bias = fields.flag("conv_bias", default=False)
    kernel = fields.integer("conv_L_cache", default=3)
    tied = fields.flag("tie_word_embeddings", "tie_embedding", default=True)
    rotary = rotary_of(fields, width, theta=1e6, theta_names=("rope_theta", "theta"))
    inner, kinds = _inner(fields), _kinds(fields, count)
    for name in ("conv_dim", "conv_dim_out"):
        fields.same(name, hidden, "a layer is as wide as the model")
    fields.same("block_use_swiglu", value=True, why="the MLP is gated")
    fields.same("use_pos_enc", value=True, why="attention is rotary")
    fields.same("hidden_act", "silu", "the MLP's gate is SiLU by definition")

    def mixer(name: str, kind: str) -> Part:
        if kind == "conv":
            return GatedConvolution(
                Linear(f"{name}.conv.in_proj", 3 * hidden, hidden, bias),
                Convolution(f"{name}.conv.conv", hidden, kernel, bias),
                Linear(f"{name}.conv.out_proj", hidden, hidden, bias),
            )
        attention = f"{name}.self_attn"
        return Attention(
            Separate(
                Linear(f"{attention}.q_proj", heads * width, hidden),
                Linear(f"{attention}.k_proj", kv_heads * width, hidden),
                Linear(f"{attention}.v_proj", kv_heads * width, hidden),
            ),
            Linear(f"{attention}.out_proj", hidden, heads * width),
            heads,
            kv_heads,
            width,
            rotary=rotary,
            query_norm=Norm(f"{attention}.q_layernorm", width, eps),
            key_norm=Norm(f"{attention}.k_layernorm", width, eps),
        )

    def block(name: str, kind: str) -> Block:
        mlp = f"{name}.feed_forward"
        return Block(
            mixer_before=Norm(f"{name}.operator_norm", hidden, eps),
            mixer=mixer(name, kind),
            mlp_before=Norm(f"{name}.ffn_norm", hidden, eps),
            mlp=GatedMlp(
                Linear(f"{mlp}.w1", inner, hidden),
                Linear(f"{mlp}.w3", inner, hidden),
                Linear(f"{mlp}.w2", hidden, inner),
                silu,
            ),
        )

    table, last = "model.embed_tokens.weight", Norm("model.embedding_norm", hidden, eps)
    return Model(
        Embedding(table, vocabulary, hidden),
        tuple(block(f"model.layers.{i}", kind) for i, kind in enumerate(kinds)),
        Head(table if tied else "lm_head.weight", vocabulary, hidden, norm=last, tied=tied),
        settled_length=rotary.settled_length,
    )


def _inner(fields: Fields) -> int:
    """Width of the MLPs: two thirds of the field, times the multiplier, rounded up, unless it is taken as it is."""
    inner = fields.integer("intermediate_size", "block_ff_dim")
    adjusted = fields.flag("block_auto_adjust_ff_dim", default=True)
    multiplier = fields.number("block_ffn_dim_multiplier", default=1.0)
    multiple = fields.integer("block_multiple_of", default=256)
    if not adjusted:
        return inner
    inner = -(-int(multiplier * (2 * inner // 3)) // multiple) * multiple
    if inner < 1:
        raise BadInput("config intermediate_size: two thirds of it, times block_ffn_dim_multiplier, is nothing")
    return inner


def _kinds(fields: Fields, count: int) -> list[str]:
    """What mixes the tokens of each layer: said of each, or by the indices of those with attention."""
    said = fields.words("layer_types", count=count, among=KINDS)
    indices = fields.layers("full_attn_idxs")
    if any(index >= count for index in indices):
        raise BadInput(f"config full_attn_idxs = {indices}: there are {count} layers")
    listed = [KINDS[0] if i in indices else KINDS[1] for i in range(count)]
    if fields.config.get("full_attn_idxs") is None:  # an empty list says: none of them
        listed = said or [KINDS[0]] * count
    if said is not None and said != listed:
        raise BadInput(
            f"config layer_types = {said}, yet full_attn_idxs = {indices}: loaders disagree which of the two counts; "
            f"remove the wrong one"
        )
    return listed


ARCHITECTURE = Architecture(
    model_type="lfm2",
    build=build,
    source="Liquid AI 2025 (the LFM2 report), with the names of the published checkpoints",
    # What the published configurations say of how they were initialised.
    ignores=("block_mlp_init_scale", "block_out_init_scale", "block_use_xavier_init", "conv_use_xavier_init"),
)
