"""StarCoder 2: layer norms, biases, a plain MLP, windows, rotary positions."""

from __future__ import annotations

from genqual.conformance.oracle.decoder import attention, model_of, sizes_of
from genqual.conformance.oracle.fields import Fields
from genqual.conformance.oracle.linear import Linear
from genqual.conformance.oracle.mlp import ACTIVATIONS, Mlp
from genqual.conformance.oracle.norms import layer_norm
from genqual.conformance.oracle.rotary_fields import rotary_of
from genqual.conformance.oracle.spec import Architecture, Block, Model


def build(fields: Fields) -> Model:
    """The model of one configuration. Raises BadInput on fields that do not fit."""
    sizes, inner = sizes_of(fields, kv_heads=2), fields.integer("intermediate_size")
    eps = fields.number("norm_epsilon", "layer_norm_epsilon", default=1e-5)
    bias = fields.flag("use_bias", default=True)
    fields.same("mlp_type", "default", "loaders take no other")
    fields.same("norm_type", "layer_norm", "loaders take no other")
    fields.same("scale_attn_weights", True, "loaders always scale")
    window = fields.optional_integer("sliding_window")
    activation = fields.choice("hidden_act", default="gelu_pytorch_tanh", among=tuple(ACTIVATIONS))
    rotary = rotary_of(fields, sizes.width)

    def block(name: str, index: int) -> Block:
        del index
        return Block(
            mixer_before=layer_norm(f"{name}.input_layernorm", sizes.hidden, eps),
            mixer=attention(f"{name}.self_attn", sizes, bias=bias, rotary=rotary, window=window),
            mlp_before=layer_norm(f"{name}.post_attention_layernorm", sizes.hidden, eps),
            mlp=Mlp(
                Linear(f"{name}.mlp.c_fc", inner, sizes.hidden, bias),
                Linear(f"{name}.mlp.c_proj", sizes.hidden, inner, bias),
                ACTIVATIONS[activation],
            ),
        )

    norm = layer_norm("model.norm", sizes.hidden, eps)
    return model_of(fields, sizes, block, norm, tied=True, settled_length=rotary.settled_length)


ARCHITECTURE = Architecture(
    model_type="starcoder2", build=build, source="Lozhkov et al. 2024 (StarCoder 2)", ignores=("activation_function",)
)
