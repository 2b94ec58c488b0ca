"""gpt-oss: attention sinks, windows on every second layer, biases everywhere, clamped experts in one tensor a layer."""

from __future__ import annotations

from typing import Final

from genqual.conformance.oracle import rotary
from genqual.conformance.oracle.experts import ClampedExperts, Mixture
from genqual.conformance.oracle.fields import Fields, divided
from genqual.conformance.oracle.grouped import grouped
from genqual.conformance.oracle.linear import Linear
from genqual.conformance.oracle.norms import Norm
from genqual.conformance.oracle.rotary import Rotary
from genqual.conformance.oracle.rotary_fields import rotary_of
from genqual.conformance.oracle.router import Router
from genqual.conformance.oracle.spec import Architecture, Block, Embedding, Head, Model

THETA: Final = 150000.0


def build(fields: Fields) -> Model:
    """The model of one configuration. Raises BadInput on fields that do not fit."""
    hidden, vocabulary = fields.integer("hidden_size"), fields.integer("vocab_size")
    count, inner = fields.integer("num_hidden_layers"), fields.integer("intermediate_size")
    heads = fields.integer("num_attention_heads")
    kv_heads = fields.integer("num_key_value_heads", default=8)
    divided("num_attention_heads over num_key_value_heads", heads, kv_heads)
    width = fields.integer("head_dim", default=64)
    eps = fields.number("rms_norm_eps", default=1e-5)
    bias = fields.flag("attention_bias", default=True)
    window = fields.optional_integer("sliding_window", default=128)
    kinds = fields.words("layer_types", count=count, among=("full_attention", "sliding_attention"))
    kinds = kinds or ["full_attention" if i % 2 else "sliding_attention" for i in range(count)]
    experts = fields.integer("num_local_experts", "num_experts", default=128)
    # A softmax of the chosen logits is a softmax of all of them, divided by the sum of the chosen.
    chosen = fields.integer("num_experts_per_tok", "experts_per_token", default=4)
    router = Router(chosen, normalise=True)
    alpha = fields.number("swiglu_alpha", default=1.702)
    limit = fields.number("swiglu_limit", default=7.0)
    fields.same("hidden_act", "silu", "its experts have a SwiGLU of their own")
    tied = fields.flag("tie_word_embeddings", default=False)
    turned = _rotary(fields, width)

    def block(index: int) -> Block:
        name = f"model.layers.{index}"
        return Block(
            mixer_before=Norm(f"{name}.input_layernorm", hidden, eps),
            mixer=grouped(
                f"{name}.self_attn",
                hidden,
                heads,
                kv_heads,
                width,
                bias=bias,
                out_bias=bias,
                rotary=turned,
                window=window if kinds[index] == "sliding_attention" else None,
                sinks=f"{name}.self_attn.sinks",
            ),
            mlp_before=Norm(f"{name}.post_attention_layernorm", hidden, eps),
            mlp=Mixture(
                Linear(f"{name}.mlp.router", experts, hidden, bias=True),
                router,
                ClampedExperts(f"{name}.mlp.experts", experts, hidden, inner, alpha, limit),
            ),
        )

    table = "model.embed_tokens.weight"
    return Model(
        Embedding(table, vocabulary, hidden),
        tuple(block(i) for i in range(count)),
        Head(table if tied else "lm_head.weight", vocabulary, hidden, norm=Norm("model.norm", hidden, eps), tied=tied),
        settled_length=turned.settled_length,
    )


def _rotary(fields: Fields, width: int) -> Rotary:
    """The rotation. Without a word of it in the configuration, it is that of the published models, as in their code."""
    said = rotary_of(fields, width, theta=THETA)
    if fields.config.get("rope_parameters") or fields.config.get("rope_scaling"):
        return said
    theta = fields.number("rope_theta", default=THETA)
    frequencies = rotary.yarn(theta, width, 32.0, 4096, 32.0, 1.0, truncate=False)
    return Rotary(rotary.fixed(frequencies), rotary.yarn_magnitude(32.0))


ARCHITECTURE = Architecture(
    model_type="gpt_oss",
    build=build,
    source="OpenAI 2025 (gpt-oss model card); Xiao et al. 2023 (sinks); Peng et al. 2023 (YaRN)",
    # A loss of training; "initial_context_length" repeats what the rotary dictionary says.
    ignores=("router_aux_loss_coef", "output_router_logits", "initial_context_length"),
)
