"""Falcon: attention and MLP beside each other, one key head or groups, rotary positions or ALiBi in bfloat16."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from genqual.conformance.oracle.attention import Attention, Groups, alibi_slopes
from genqual.conformance.oracle.core import F64
from genqual.conformance.oracle.fields import Fields, divided
from genqual.conformance.oracle.linear import Linear
from genqual.conformance.oracle.mlp import ACTIVATIONS, Mlp
from genqual.conformance.oracle.norms import Norm, layer_norm
from genqual.conformance.oracle.rotary_fields import rotary_of
from genqual.conformance.oracle.spec import Architecture, Block, Embedding, Head, Model
from genqual.errors import BadInput


def build(fields: Fields) -> Model:
    """The model of one configuration. Raises BadInput on fields that do not fit."""
    hidden, vocabulary = fields.integer("n_embed", "hidden_size"), fields.integer("vocab_size")
    heads = fields.integer("num_attention_heads")
    width = divided("hidden_size over num_attention_heads", hidden, heads)
    groups, parallel, norms = _shape_of(fields, heads)
    inner = fields.integer("ffn_hidden_size", default=4 * hidden)
    eps = fields.number("layer_norm_epsilon", default=1e-5)
    bias = fields.flag("bias", default=False)
    activation = fields.choice("activation", default="gelu", among=tuple(ACTIVATIONS))
    alibi = fields.flag("alibi", default=False)
    rotary = rotary_of(fields, width)

    def block(name: str) -> Block:
        fused = Linear(f"{name}.self_attention.query_key_value", (heads + 2 * groups) * width, hidden, bias)
        before, beside = (Norm(f"{name}.{of}", hidden, eps, kind="layer", bias=True) for of in norms)
        return Block(
            mixer_before=before,
            mixer=Attention(
                Groups(fused, groups, heads // groups, width),
                Linear(f"{name}.self_attention.dense", hidden, hidden, bias),
                heads,
                groups,
                width,
                rotary=None if alibi else rotary,
                bias=bfloat16_alibi(heads, width) if alibi else None,
            ),
            mlp_before=beside,
            mlp=Mlp(
                Linear(f"{name}.mlp.dense_h_to_4h", inner, hidden, bias),
                Linear(f"{name}.mlp.dense_4h_to_h", hidden, inner, bias),
                ACTIVATIONS[activation],
            ),
            parallel=parallel,
        )

    tied = fields.flag("tie_word_embeddings", default=True)
    table = "transformer.word_embeddings.weight"
    return Model(
        Embedding(table, vocabulary, hidden),
        tuple(block(f"transformer.h.{index}") for index in range(fields.integer("num_hidden_layers"))),
        Head(
            table if tied else "lm_head.weight",
            vocabulary,
            hidden,
            norm=layer_norm("transformer.ln_f", hidden, eps),
            tied=tied,
        ),
        settled_length=None if alibi else rotary.settled_length,
    )


def _shape_of(fields: Fields, heads: int) -> tuple[int, bool, tuple[str, str]]:
    """Key heads, whether attention and MLP stand beside each other, and the norms before the two."""
    new = fields.flag("new_decoder_architecture", default=False)
    norms = fields.optional_integer("num_ln_in_parallel_attn") or (2 if new else 1)
    if norms > 2 or (norms == 2 and not new):
        raise BadInput(
            f"config num_ln_in_parallel_attn = {norms}, new_decoder_architecture = {new}: no Falcon is built so; the "
            f"oracle knows one norm, or two of the new architecture"
        )
    if new:
        fields.skip("multi_query")  # only the old architecture reads it
        fields.same("parallel_attn", True, "the new architecture is always parallel")
        groups, beside = fields.integer("num_kv_heads", default=heads), True
        divided("num_attention_heads over num_kv_heads", heads, groups)
    else:
        fields.skip("num_kv_heads")  # only the new architecture reads it
        groups = 1 if fields.flag("multi_query", default=True) else heads
        beside = fields.flag("parallel_attn", default=True)
    if not beside:
        return groups, False, ("input_layernorm", "post_attention_layernorm")
    return groups, True, ("ln_attn", "ln_mlp") if norms == 2 else ("input_layernorm", "input_layernorm")


def bfloat16_alibi(heads: int, width: int) -> Callable[[int], F64]:
    """ALiBi as Falcon's published code has it: slope and slope x position rounded to bfloat16, then over sqrt(width).

    The rounding is part of the model: its checkpoints were trained with it, and beyond 256 tokens it is not small.
    """
    slopes = _bfloat16(alibi_slopes(heads))
    return lambda keys: _bfloat16(slopes[:, None] * np.arange(keys)) / np.sqrt(width)


def _bfloat16(x: F64) -> F64:
    """The nearest bfloat16, ties to even; exact for what float32 holds."""
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32).astype(np.uint64)
    kept = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return kept.astype(np.uint32).view(np.float32).astype(np.float64)


ARCHITECTURE = Architecture(
    model_type="falcon",
    build=build,
    source="Almazrouei et al. 2023 (Falcon); for ALiBi the code that was published with the checkpoints",
    prefix="transformer.",
    ignores=("intermediate_size", "num_key_value_heads", "rms_norm_eps"),
)
