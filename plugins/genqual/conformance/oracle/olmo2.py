"""OLMo 2: norms after attention and MLP instead of before, and over all queries and all keys at once."""

from __future__ import annotations

from genqual.conformance.oracle.decoder import attention, model_of, sizes_of
from genqual.conformance.oracle.fields import Fields
from genqual.conformance.oracle.mlp import ACTIVATIONS, gated
from genqual.conformance.oracle.norms import Norm
from genqual.conformance.oracle.rotary_fields import rotary_of
from genqual.conformance.oracle.spec import Architecture, Block, Model


def build(fields: Fields) -> Model:
    """The model of one configuration. Raises BadInput on fields that do not fit."""
    sizes, inner = sizes_of(fields), fields.integer("intermediate_size")
    eps = fields.number("rms_norm_eps", default=1e-5)
    bias = fields.flag("attention_bias", default=False)
    activation = fields.choice("hidden_act", default="silu", among=tuple(ACTIVATIONS))
    rotary = rotary_of(fields, sizes.width)

    def block(name: str, index: int) -> Block:
        del index
        mixer = attention(
            f"{name}.self_attn",
            sizes,
            bias=bias,
            rotary=rotary,
            query_norm=Norm(f"{name}.self_attn.q_norm", sizes.queries, eps),
            key_norm=Norm(f"{name}.self_attn.k_norm", sizes.keys, eps),
            whole_norms=True,
        )
        return Block(
            mixer=mixer,
            mixer_after=Norm(f"{name}.post_attention_layernorm", sizes.hidden, eps),
            mlp=gated(f"{name}.mlp", inner, sizes.hidden, activation),
            mlp_after=Norm(f"{name}.post_feedforward_layernorm", sizes.hidden, eps),
        )

    norm = Norm("model.norm", sizes.hidden, eps)
    return model_of(fields, sizes, block, norm, tied=False, settled_length=rotary.settled_length)


ARCHITECTURE = Architecture(model_type="olmo2", build=build, source="OLMo team 2025 (2 OLMo 2 Furious)")
