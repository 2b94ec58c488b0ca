"""Gemma: one-plus-weight norms, embedding times sqrt(hidden), tanh GELU in a gated MLP."""

from __future__ import annotations

from math import sqrt

from genqual.conformance.oracle.decoder import attention, model_of, sizes_of
from genqual.conformance.oracle.fields import Fields
from genqual.conformance.oracle.mlp import ACTIVATIONS, gated
from genqual.conformance.oracle.norms import Norm
from genqual.conformance.oracle.rotary_fields import rotary_of
from genqual.conformance.oracle.spec import Architecture, Block, Model
from genqual.errors import BadInput

# The first checkpoints say "gelu", and mean the tanh approximation that they were trained with.
_MEANT = {"gelu": "gelu_pytorch_tanh"}


def build(fields: Fields) -> Model:
    """The model of one configuration. Raises BadInput on fields that do not fit."""
    sizes, inner = sizes_of(fields, kv_heads=16, width=256), fields.integer("intermediate_size")
    eps = fields.number("rms_norm_eps", default=1e-6)
    bias = fields.flag("attention_bias", default=False)
    fields.same("use_bidirectional_attention", False, "a decoder is causal")
    said = fields.choice("hidden_act", default="gelu_pytorch_tanh", among=tuple(ACTIVATIONS))
    activation = _MEANT.get(said, said)
    other = fields.choice("hidden_activation", default=activation, among=tuple(ACTIVATIONS))
    if _MEANT.get(other, other) != activation:
        raise BadInput(
            f"config hidden_act = {said!r}, yet hidden_activation = {other!r}: loaders disagree which of the two "
            f"counts; remove the wrong one"
        )
    rotary = rotary_of(fields, sizes.width)

    def block(name: str, index: int) -> Block:
        del index
        return Block(
            mixer_before=Norm(f"{name}.input_layernorm", sizes.hidden, eps, one_plus=True),
            mixer=attention(f"{name}.self_attn", sizes, bias=bias, rotary=rotary),
            mlp_before=Norm(f"{name}.post_attention_layernorm", sizes.hidden, eps, one_plus=True),
            mlp=gated(f"{name}.mlp", inner, sizes.hidden, activation),
        )

    return model_of(
        fields,
        sizes,
        block,
        Norm("model.norm", sizes.hidden, eps, one_plus=True),
        tied=True,
        multiplier=sqrt(sizes.hidden),
        settled_length=rotary.settled_length,
    )


ARCHITECTURE = Architecture(model_type="gemma", build=build, source="Gemma team 2024 (Gemma)")
