"""Gemma 2: norms before and after, windows in every second layer, soft caps of scores and logits."""

from __future__ import annotations

from math import sqrt

from genqual.conformance.oracle.decoder import attention, model_of, sizes_of, windows
from genqual.conformance.oracle.fields import Fields
from genqual.conformance.oracle.mlp import ACTIVATIONS, gated
from genqual.conformance.oracle.norms import Norm
from genqual.conformance.oracle.rotary_fields import rotary_of
from genqual.conformance.oracle.spec import Architecture, Block, Model


def build(fields: Fields) -> Model:
    """The model of one configuration. Raises BadInput on fields that do not fit."""
    sizes, inner = sizes_of(fields, kv_heads=4, width=256), fields.integer("intermediate_size")
    eps = fields.number("rms_norm_eps", default=1e-6)
    bias = fields.flag("attention_bias", default=False)
    fields.same("use_bidirectional_attention", False, "a decoder is causal")
    activation = fields.choice("hidden_activation", "hidden_act", default="gelu_pytorch_tanh", among=tuple(ACTIVATIONS))
    scale = fields.integer("query_pre_attn_scalar", default=256) ** -0.5
    cap = fields.optional_number("attn_logit_softcapping", default=50.0)
    window = fields.optional_integer("sliding_window", "sliding_window_size", default=4096)
    seen = windows(fields, sizes.layers, window, ["sliding_attention", "full_attention"] * sizes.layers)
    rotary = rotary_of(fields, sizes.width)

    def block(name: str, index: int) -> Block:
        def norm(of: str) -> Norm:
            return Norm(f"{name}.{of}", sizes.hidden, eps, one_plus=True)

        return Block(
            mixer_before=norm("input_layernorm"),
            mixer=attention(
                f"{name}.self_attn", sizes, bias=bias, rotary=rotary, window=seen[index], scale=scale, cap=cap
            ),
            mixer_after=norm("post_attention_layernorm"),
            mlp_before=norm("pre_feedforward_layernorm"),
            mlp=gated(f"{name}.mlp", inner, sizes.hidden, activation),
            mlp_after=norm("post_feedforward_layernorm"),
        )

    return model_of(
        fields,
        sizes,
        block,
        Norm("model.norm", sizes.hidden, eps, one_plus=True),
        tied=True,
        multiplier=sqrt(sizes.hidden),
        cap=fields.optional_number("final_logit_softcapping", default=30.0),
        settled_length=rotary.settled_length,
    )


ARCHITECTURE = Architecture(model_type="gemma2", build=build, source="Gemma team 2024 (Gemma 2)")
