"""Mamba-2: layers of a selective state space alone, without attention, keys or positions."""

from __future__ import annotations

from math import inf

from genqual.conformance.oracle.convolution import Convolution
from genqual.conformance.oracle.fields import Fields
from genqual.conformance.oracle.linear import Linear
from genqual.conformance.oracle.mlp import ACTIVATIONS
from genqual.conformance.oracle.norms import Norm
from genqual.conformance.oracle.spec import Architecture, Block, Embedding, Head, Model
from genqual.conformance.oracle.state_space import Mamba2Mixer
from genqual.errors import BadInput


def build(fields: Fields) -> Model:
    """The model of one configuration. Raises BadInput on fields that do not fit."""
    hidden, vocabulary = fields.integer("hidden_size"), fields.integer("vocab_size")
    heads, width = fields.integer("num_heads"), fields.integer("head_dim")
    inner = int(fields.number("expand", default=2.0) * hidden)
    if inner != heads * width:
        raise BadInput(
            f"config expand x hidden_size = {inner}, num_heads x head_dim = {heads * width}: they must agree"
        )
    groups, size = fields.integer("n_groups", default=8), fields.integer("state_size", default=128)
    if heads % groups:
        raise BadInput(f"config num_heads = {heads}, n_groups = {groups}: heads must be a multiple of the groups")
    eps = fields.number("layer_norm_epsilon", default=1e-5)
    bias = fields.flag("use_bias", default=False)
    conv_bias = fields.flag("use_conv_bias", default=True)
    kernel = fields.integer("conv_kernel", default=4)
    activation = ACTIVATIONS[fields.choice("hidden_act", default="silu", among=tuple(ACTIVATIONS))]
    limits = fields.limits("time_step_limit", default=(0.0, inf))
    fields.same("rms_norm", value=True, why="the output of each layer is normed")
    tied = fields.flag("tie_word_embeddings", default=False)
    channels = inner + 2 * groups * size

    def block(name: str) -> Block:
        mixer = f"{name}.mixer"
        return Block(
            mixer_before=Norm(f"{name}.norm", hidden, eps),
            mixer=Mamba2Mixer(
                mixer,
                into=Linear(f"{mixer}.in_proj", inner + channels + heads, hidden, bias),
                convolution=Convolution(f"{mixer}.conv1d", channels, kernel, conv_bias, activation),
                out=Linear(f"{mixer}.out_proj", hidden, inner, bias),
                heads=heads,
                width=width,
                groups=groups,
                state_size=size,
                eps=eps,
                limits=limits,
            ),
        )

    table = "backbone.embeddings.weight"
    return Model(
        Embedding(table, vocabulary, hidden),
        tuple(block(f"backbone.layers.{i}") for i in range(fields.integer("num_hidden_layers"))),
        Head(table if tied else "lm_head.weight", vocabulary, hidden, Norm("backbone.norm_f", hidden, eps), tied=tied),
    )


ARCHITECTURE = Architecture(
    model_type="mamba2",
    build=build,
    # The definition limits each step. transformers does so in passes of several tokens only, as the published code
    # does; no published checkpoint has a limit.
    source="Dao and Gu 2024, with the names of the published checkpoints",
    prefix="backbone.",
    ignores=(
        *("chunk_size", "residual_in_fp32"),  # in which order and precision it is summed
        *("time_step_rank", "time_step_min", "time_step_max", "time_step_floor"),  # how it was initialised
        "norm_before_gate",  # written with Codestral's checkpoint, which gates first all the same
        *("intermediate_size", "num_attention_heads", "num_key_value_heads"),
    ),
)
