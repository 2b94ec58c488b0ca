"""Qwen 2 and 2.5: Llama with biases of queries, keys and values, and windows in upper layers where they are used."""

from __future__ import annotations

from genqual.conformance.oracle.decoder import attention, model_of, qwen_windows, sizes_of
from genqual.conformance.oracle.fields import Fields
from genqual.conformance.oracle.mlp import ACTIVATIONS, gated
from genqual.conformance.oracle.norms import Norm
from genqual.conformance.oracle.rotary_fields import rotary_of
from genqual.conformance.oracle.spec import Architecture, Block, Model


def build(fields: Fields) -> Model:
    """The model of one configuration. Raises BadInput on fields that do not fit."""
    sizes, inner = sizes_of(fields, kv_heads=32), fields.integer("intermediate_size")
    eps = fields.number("rms_norm_eps", default=1e-6)
    seen = qwen_windows(fields, sizes.layers)
    activation = fields.choice("hidden_act", default="silu", among=tuple(ACTIVATIONS))
    rotary = rotary_of(fields, sizes.width)

    def block(name: str, index: int) -> Block:
        return Block(
            mixer_before=Norm(f"{name}.input_layernorm", sizes.hidden, eps),
            mixer=attention(f"{name}.self_attn", sizes, bias=True, out_bias=False, rotary=rotary, window=seen[index]),
            mlp_before=Norm(f"{name}.post_attention_layernorm", sizes.hidden, eps),
            mlp=gated(f"{name}.mlp", inner, sizes.hidden, activation),
        )

    norm = Norm("model.norm", sizes.hidden, eps)
    return model_of(fields, sizes, block, norm, tied=False, settled_length=rotary.settled_length)


ARCHITECTURE = Architecture(model_type="qwen2", build=build, source="Qwen team 2024 (Qwen2 technical report)")
