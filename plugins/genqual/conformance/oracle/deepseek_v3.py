"""DeepSeek-V3: latent attention, sigmoid routers with a correction bias, groups by their two best experts."""

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
    interleaved = fields.flag("rope_interleave", default=True)
    attention = deepseek.latent_attention(
        fields, hidden, lambda width: rotary_of(fields, width, interleaved=interleaved)
    )
    expert_inner = fields.integer("moe_intermediate_size", default=2048)
    experts = fields.integer("n_routed_experts", "num_local_experts", default=256)
    shared = fields.integer("n_shared_experts", default=1)
    fields.same("scoring_func", "sigmoid", "its correction bias is one of sigmoid scores")
    fields.same("topk_method", "noaux_tc", "groups count by their two best experts")
    router = Router(
        fields.integer("num_experts_per_tok", default=8),
        score="sigmoid",
        normalise=fields.flag("norm_topk_prob", default=True),
        scale=fields.number("routed_scaling_factor", default=2.5),
        groups=fields.integer("n_group", default=8),
        groups_kept=fields.integer("topk_group", default=4),
        group_counts=2,
    )

    def sparse(name: str) -> Part:
        return Mixture(
            Linear(f"{name}.gate", experts, hidden),
            router,
            separate(f"{name}.experts", experts, expert_inner, hidden, activation),
            correction=f"{name}.gate.e_score_correction_bias",
            shared=gated(f"{name}.shared_experts", expert_inner * shared, hidden, activation),
        )

    return deepseek.model(
        fields, hidden, attention, lambda name: gated(name, inner, hidden, activation), sparse, dense_first=3
    )


ARCHITECTURE = Architecture(
    model_type="deepseek_v3",
    build=build,
    source="DeepSeek-AI 2024 (DeepSeek-V3 report and the inference code published with its checkpoints)",
    # Losses of training, and how many devices a checkpoint was spread over.
    ignores=("aux_loss_alpha", "seq_aux", "ep_size", "output_router_logits"),
    stored=Stacked(),
)
