"""Phi-3 and 4: one projection for queries, keys and values, one for gate and up, partial rotation, longrope."""

from __future__ import annotations

from genqual.conformance.oracle.attention import Attention, Blocks
from genqual.conformance.oracle.decoder import model_of, sizes_of
from genqual.conformance.oracle.fields import Fields
from genqual.conformance.oracle.linear import Linear
from genqual.conformance.oracle.mlp import ACTIVATIONS, FusedGatedMlp
from genqual.conformance.oracle.norms import Norm
from genqual.conformance.oracle.rotary_fields import rotary_of
from genqual.conformance.oracle.spec import Architecture, Block, Model


def build(fields: Fields) -> Model:
    """The model of one configuration. Raises BadInput on fields that do not fit."""
    sizes, inner = sizes_of(fields), fields.integer("intermediate_size")
    eps = fields.number("rms_norm_eps", default=1e-5)
    window = fields.optional_integer("sliding_window")
    activation = fields.choice("hidden_act", default="silu", among=tuple(ACTIVATIONS))
    # Phi-3's first configurations call longrope "su", and some "yarn".
    rotary = rotary_of(fields, sizes.width, original=4096, renamed={"su": "longrope", "yarn": "longrope"})
    fields.same("full_attn_mod", 1, "loaders ignore it")
    fields.same("interpolate_factor", 1, "loaders ignore it")
    fields.skip("original_max_position_embeddings")  # of longrope only

    def block(name: str, index: int) -> Block:
        del index
        mixer = Attention(
            Blocks(
                Linear(f"{name}.self_attn.qkv_proj", sizes.queries + 2 * sizes.keys, sizes.hidden),
                sizes.queries,
                sizes.keys,
            ),
            Linear(f"{name}.self_attn.o_proj", sizes.hidden, sizes.queries),
            sizes.heads,
            sizes.kv_heads,
            sizes.width,
            rotary=rotary,
            window=window,
        )
        return Block(
            mixer_before=Norm(f"{name}.input_layernorm", sizes.hidden, eps),
            mixer=mixer,
            mlp_before=Norm(f"{name}.post_attention_layernorm", sizes.hidden, eps),
            mlp=FusedGatedMlp(
                Linear(f"{name}.mlp.gate_up_proj", 2 * inner, sizes.hidden),
                Linear(f"{name}.mlp.down_proj", sizes.hidden, inner),
                ACTIVATIONS[activation],
            ),
        )

    norm = Norm("model.norm", sizes.hidden, eps)
    return model_of(fields, sizes, block, norm, tied=False, settled_length=rotary.settled_length)


ARCHITECTURE = Architecture(
    model_type="phi3", build=build, source="Abdin et al. 2024 (Phi-3); Ding et al. 2024 (LongRoPE)"
)
