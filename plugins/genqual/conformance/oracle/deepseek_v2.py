"""DeepSeek-V2: latent attention, softmax routers, groups by their best expert.

Where `norm_topk_prob` is true, the chosen weights sum to one and are not scaled, as the code published with the
checkpoints has it. transformers 5 ignores the field; no published checkpoint sets it.
"""

from __future__ import annotations

from genqual.conformance.oracle import deepseek
from genqual.conformance.oracle.core import Part
from genqual.conformance.oracle.experts import Mixture, separate
from genqual.conformance.oracle.fields import Fields
from genqual.conformance.oracle.linear import Linear
from genqual.conformance.oracle.mlp import ACTIVATIONS, gated
from genqual.conformance.oracle.rotary_fields import rotary_of
from genqual.conformance.oracle.router import Router
from genqual.conformance.oracle.spec import Architecture, Model
from genqual.conformance.oracle.stacked import Stacked


def build(fields: Fields) -> Model:
    """The model of one configuration. Raises BadInput on fields that do not fit."""
    hidden, inner = fields.integer("hidden_size"), fields.integer("intermediate_size")
    activation = fields.choice("hidden_act", default="silu", among=tuple(ACTIVATIONS))
    bias = fields.flag("mlp_bias", default=False)
    attention = deepseek.latent_attention(fields, hidden, lambda width: rotary_of(fields, width, interleaved=True))
    expert_inner = fields.integer("moe_intermediate_size", default=1407)
    experts = fields.integer("n_routed_experts", "num_experts", default=64)
    shared = fields.integer("n_shared_experts", default=2)
    fields.same("scoring_func", "softmax", "its routers are softmax routers")
    method = fields.choice("topk_method", default="greedy", among=("greedy", "group_limited_greedy"))
    groups, kept = 1, 1
    if method == "group_limited_greedy":
        groups, kept = fields.integer("n_group"), fields.integer("topk_group")
    else:
        fields.skip("n_group", "topk_group")
    chosen = fields.integer("num_experts_per_tok")
    normalise = fields.flag("norm_topk_prob", default=False) and chosen > 1
    scale = fields.number("routed_scaling_factor", default=1.0)
    router = Router(
        chosen,
        normalise=normalise,
        scale=1.0 if normalise else scale,
        groups=groups,
        groups_kept=kept,
    )

    def sparse(name: str) -> Part:
        return Mixture(
            Linear(f"{name}.gate", experts, hidden),
            router,
            separate(f"{name}.experts", experts, expert_inner, hidden, activation),
            shared=gated(f"{name}.shared_experts", expert_inner * shared, hidden, activation, bias=bias),
        )

    return deepseek.model(
        fields, hidden, attention, lambda name: gated(name, inner, hidden, activation, bias=bias), sparse, dense_first=0
    )


ARCHITECTURE = Architecture(
    model_type="deepseek_v2",
    build=build,
    source="DeepSeek-AI 2024 (DeepSeek-V2 report and the code published with its checkpoints)",
    # Losses of training, and how many devices a checkpoint was spread over.
    ignores=("aux_loss_alpha", "seq_aux", "ep_size", "output_router_logits"),
    stored=Stacked(),
)
