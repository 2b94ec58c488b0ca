"""Gemma 3 (text): head norms instead of caps, five windowed layers to a full one, each kind with its own rotation."""

from __future__ import annotations

from math import sqrt

from genqual.conformance.oracle.decoder import attention, head_norms, model_of, sizes_of, windows
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
    fields.same("attn_logit_softcapping", None, "Gemma 3 has head norms in its place, and loaders ignore it")
    activation = fields.choice("hidden_activation", "hidden_act", default="gelu_pytorch_tanh", among=tuple(ACTIVATIONS))
    scale = fields.integer("query_pre_attn_scalar", default=256) ** -0.5
    each = fields.integer("sliding_window_pattern", "_sliding_window_pattern", default=6)
    types = ["full_attention" if (i + 1) % each == 0 else "sliding_attention" for i in range(sizes.layers)]
    window = fields.optional_integer("sliding_window", default=4096)
    seen = windows(fields, sizes.layers, window, types)
    near = rotary_of(
        fields, sizes.width, layer_type="sliding_attention", theta_names=("rope_local_base_freq",), scaled=False
    )
    far = rotary_of(fields, sizes.width, layer_type="full_attention", theta=1e6)

    def block(name: str, index: int) -> Block:
        def norm(of: str) -> Norm:
            return Norm(f"{name}.{of}", sizes.hidden, eps, one_plus=True)

        return Block(
            mixer_before=norm("input_layernorm"),
            mixer=attention(
                f"{name}.self_attn",
                sizes,
                bias=bias,
                rotary=far if seen[index] is None else near,
                window=seen[index],
                scale=scale,
                **head_norms(f"{name}.self_attn", sizes, eps, one_plus=True),
            ),
            mixer_after=norm("post_attention_layernorm"),
            mlp_before=norm("pre_feedforward_layernorm"),
            mlp=gated(f"{name}.mlp", inner, sizes.hidden, activation),
            mlp_after=norm("post_feedforward_layernorm"),
        )

    settled = [length for length in (near.settled_length, far.settled_length) if length is not None]
    return model_of(
        fields,
        sizes,
        block,
        Norm("model.norm", sizes.hidden, eps, one_plus=True),
        tied=True,
        multiplier=sqrt(sizes.hidden),
        cap=fields.optional_number("final_logit_softcapping"),
        settled_length=min(settled, default=None),
    )


ARCHITECTURE = Architecture(model_type="gemma3_text", build=build, source="Gemma team 2025 (Gemma 3)")
