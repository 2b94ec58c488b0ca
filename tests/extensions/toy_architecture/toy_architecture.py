"""An architecture of another package: Arcee's AFM, a Llama whose MLP is plain with a squared ReLU."""

from __future__ import annotations

from genqual.conformance.oracle.decoder import attention, model_of, sizes_of
from genqual.conformance.oracle.fields import Fields
from genqual.conformance.oracle.linear import Linear
from genqual.conformance.oracle.mlp import ACTIVATIONS, Mlp
from genqual.conformance.oracle.norms import Norm
from genqual.conformance.oracle.rotary_fields import rotary_of
from genqual.conformance.oracle.spec import Architecture, Block, Model


def build(fields: Fields) -> Model:
    """The model of one configuration. Raises BadInput on fields that do not fit."""
    sizes, inner = sizes_of(fields), fields.integer("intermediate_size")
    eps = fields.number("rms_norm_eps", default=1e-5)
    bias, mlp_bias = fields.flag("attention_bias", default=False), fields.flag("mlp_bias", default=False)
    activation = fields.choice("hidden_act", default="relu2", among=tuple(ACTIVATIONS))
    rotary = rotary_of(fields, sizes.width)

    def block(name: str, index: int) -> Block:
        del index
        return Block(
            mixer_before=Norm(f"{name}.input_layernorm", sizes.hidden, eps),
            mixer=attention(f"{name}.self_attn", sizes, bias=bias, rotary=rotary),
            mlp_before=Norm(f"{name}.post_attention_layernorm", sizes.hidden, eps),
            mlp=Mlp(
                Linear(f"{name}.mlp.up_proj", inner, sizes.hidden, mlp_bias),
                Linear(f"{name}.mlp.down_proj", sizes.hidden, inner, mlp_bias),
                ACTIVATIONS[activation],
            ),
        )

    norm = Norm("model.norm", sizes.hidden, eps)
    return model_of(fields, sizes, block, norm, tied=False, settled_length=rotary.settled_length)


ARCHITECTURE = Architecture(model_type="arcee", build=build, source="Arcee AI 2025 (AFM-4.5B)")
