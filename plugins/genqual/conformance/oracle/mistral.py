"""Mistral: Llama with a window in every layer."""

from __future__ import annotations

from genqual.conformance.oracle.decoder import attention, model_of, sizes_of
from genqual.conformance.oracle.fields import Fields
from genqual.conformance.oracle.mlp import ACTIVATIONS, gated
from genqual.conformance.oracle.norms import Norm
from genqual.conformance.oracle.rotary_fields import rotary_of
from genqual.conformance.oracle.spec import Architecture, Block, Model


def build(fields: Fields) -> Model:
    """The model of one configuration. Raises BadInput on fields that do not fit."""
    sizes, inner = sizes_of(fields, kv_heads=8), fields.integer("intermediate_size")
    eps = fields.number("rms_norm_eps", default=1e-6)
    window = fields.optional_integer("sliding_window", default=4096)
    activation = fields.choice("hidden_act", default="silu", among=tuple(ACTIVATIONS))
    rotary = rotary_of(fields, sizes.width)

    def block(name: str, index: int) -> Block:
        del index
        return Block(
            mixer_before=Norm(f"{name}.input_layernorm", sizes.hidden, eps),
            mixer=attention(f"{name}.self_attn", sizes, rotary=rotary, window=window),
            mlp_before=Norm(f"{name}.post_attention_layernorm", sizes.hidden, eps),
            mlp=gated(f"{name}.mlp", inner, sizes.hidden, activation),
        )

    norm = Norm("model.norm", sizes.hidden, eps)
    return model_of(fields, sizes, block, norm, tied=False, settled_length=rotary.settled_length)


ARCHITECTURE = Architecture(model_type="mistral", build=build, source="Jiang et al. 2023 (Mistral 7B)")
