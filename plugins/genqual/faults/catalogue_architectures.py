"""Faults of parts that only some architectures have: windows, caps, sinks, routers, latents, recurrent states. Pure."""

from __future__ import annotations

from typing import Any, Final

from genqual.faults.fault import HERE, Fault

WINDOWED: Final = frozenset({"qwen3", "gemma2", "gpt_oss", "qwen3_moe"})
MIXTURES: Final = frozenset({"qwen3_moe", "gpt_oss", "deepseek_v3", "qwen3_next"})
NORMED: Final = frozenset({"qwen3", "qwen3_moe", "qwen3_next"})  # a norm of each query and key
GEMMA: Final = frozenset({"gemma2"})
GPT_OSS: Final = frozenset({"gpt_oss"})
LATENT: Final = frozenset({"deepseek_v3"})
HYBRID: Final = frozenset({"qwen3_next"})
STACKED: Final = MIXTURES - GPT_OSS  # (experts, 2 * inner, hidden): the gate's rows, then up's
CACHED: Final = WINDOWED | LATENT | HYBRID
FP32: Final = frozenset({"fp32"})


def _faults(
    group: str, architectures: frozenset[str], *entries: tuple[str, str, str, dict[str, Any]], **more: Any
) -> tuple[Fault, ...]:
    """Name, "module:function", summary, and the parameters; `more` is of `Fault`."""
    options: dict[str, Any] = {"engines": frozenset({"transformers"}), **more}
    return tuple(
        Fault(name, f"{HERE}.{entry}", summary, group=group, architectures=architectures, params=params, **options)
        for name, entry, summary, params in entries
    )


CONFIG: Final = frozenset({"modules", "config"})
STATE: Final = frozenset({"modules", "cache"})

WINDOWS: Final = (
    *_faults(
        "windows and caps",
        WINDOWED,
        ("window_one_more", "configured:changed_fields", "windows hold one token too many", {"fields": {"sliding_window": 17}}),
        ("window_one_less", "configured:changed_fields", "windows hold one token too few", {"fields": {"sliding_window": 15}}),
        ("window_doubled", "configured:changed_fields", "windows are twice as long", {"fields": {"sliding_window": 32}}),
        wants=CONFIG,
    ),
    *_faults(
        "windows and caps",
        GEMMA,
        ("window_ignored_on_one", "configured:changed_fields", "one of two windowed layers sees everything",
         {"fields": {"layer_types": ["sliding_attention", *["full_attention"] * 3]}}),
        ("window_on_every_layer", "configured:changed_fields", "every layer has a window",
         {"fields": {"layer_types": ["sliding_attention"] * 4}}),
        ("window_on_the_others", "configured:changed_fields", "windows are on the layers that have none",
         {"fields": {"layer_types": ["full_attention", "sliding_attention"] * 2}}),
        wants=CONFIG,
    ),
    *_faults(
        "windows and caps",
        GPT_OSS,
        ("window_ignored_on_the_last", "configured:changed_fields", "one of two windowed layers sees everything",
         {"fields": {"layer_types": ["full_attention", "sliding_attention", "full_attention"]}}),
        ("window_on_all_three", "configured:changed_fields", "every layer has a window",
         {"fields": {"layer_types": ["sliding_attention"] * 3}}),
        wants=CONFIG,
    ),
    *_faults(
        "windows and caps",
        frozenset({"qwen3"}),
        ("window_from_the_first", "configured:changed_fields", "windows begin a layer too early", {"fields": {"max_window_layers": 0}}),
        ("window_from_the_last", "configured:changed_fields", "windows begin a layer too late", {"fields": {"max_window_layers": 2}}),
        wants=CONFIG,
    ),
    *_faults(
        "windows and caps",
        GEMMA,
        ("cap_lost_in_one", "named:attribute", "one layer does not cap its scores",
         {"module": "self_attn", "name": "attn_logit_softcapping", "value": None}),
        ("cap_lost", "configured:changed_fields", "no layer caps its scores", {"fields": {"attn_logit_softcapping": None}}),
        ("cap_halved", "configured:changed_fields", "scores are capped at half of what they should be",
         {"fields": {"attn_logit_softcapping": 2.0}}),
        ("final_cap_lost", "configured:changed_fields", "logits are not capped", {"fields": {"final_logit_softcapping": None}}),
        ("scale_of_heads", "named:attribute", "one layer divides scores by the root of the head's width",
         {"module": "self_attn", "name": "scaling", "value": 12**-0.5}),
        wants=CONFIG,
    ),
)  # fmt: skip

NORMS: Final = (
    *_faults(
        "norms of some architectures",
        NORMED,
        ("query_norm_lost", "named:bypassed", "one layer does not norm its queries", {"module": "self_attn.q_norm"}),
        ("key_norm_lost", "named:bypassed", "one layer does not norm its keys", {"module": "self_attn.k_norm"}),
        ("query_and_key_norm_exchanged", "named:exchanged", "the norms of queries and keys change places",
         {"one": "self_attn.q_norm", "other": "self_attn.k_norm"}),
    ),
    *_faults(
        "norms of some architectures",
        GEMMA,
        ("norm_behind_attention_lost", "named:bypassed", "one layer leaves out the norm behind attention",
         {"module": "post_attention_layernorm", "layer": 1}),
        ("norm_before_mlp_lost", "named:bypassed", "one layer leaves out the norm before its MLP",
         {"module": "pre_feedforward_layernorm", "layer": 1}),
        ("norm_behind_mlp_lost", "named:bypassed", "one layer leaves out the norm behind its MLP",
         {"module": "post_feedforward_layernorm", "layer": 1}),
    ),
    *_faults(
        "norms of some architectures",
        GEMMA | HYBRID,
        ("one_plus_lost", "named:weight", "a norm multiplies by its weight, not by one plus it",
         {"name": "input_layernorm.weight", "how": "less_one", "layer": 1}),
        kind="weights",
    ),
)  # fmt: skip

EXPERTS: Final = (
    *_faults(
        "mixtures of experts",
        MIXTURES,
        ("wrong_expert", "routing:routed", "a token's first expert is the one beside it", {"how": "wrong"}),
        ("experts_of_the_neighbour", "routing:routed", "a token gets the experts of the token before", {"how": "neighbours"}),
        ("expert_weights_exchanged", "routing:routed", "the weights of a token's experts change places", {"how": "exchanged"}),
        ("expert_lost", "routing:routed", "the least of a token's experts is left out", {"how": "one_lost"}),
        ("experts_equal", "routing:routed", "a token's experts count alike", {"how": "equal"}),
        ("gate_unnormalised", "routing:routed", "the weights of the chosen are not normalised", {"how": "unnormalised"}),
        ("token_dropped", "routing:routed", "an expert takes six tokens of a pass and drops the others", {"how": "dropped"}),
        ("routing_stale", "routing:stale", "a decode step is routed as the step before", {}),
    ),
    *_faults(
        "mixtures of experts",
        MIXTURES,
        ("router_coarse", "routing:coarse", "the router of an fp32 run reads its input in bf16", {}),
        dtypes=FP32,
    ),
    *_faults(
        "mixtures of experts",
        MIXTURES,
        ("experts_swapped", "named:weight", "two experts' last matrices change places", {"name": "mlp.experts.down_proj", "how": "swapped"}),
        ("expert_zero", "named:weight", "one expert's last matrix is zero", {"name": "mlp.experts.down_proj", "how": "first_zero"}),
        kind="weights",
    ),
    *_faults(
        "mixtures of experts",
        STACKED,
        ("gate_and_up_exchanged", "named:weight", "the gate's rows stand in up's place",
         {"name": "mlp.experts.gate_up_proj", "how": "halves"}),
        kind="weights",
    ),
    *_faults(
        "mixtures of experts",
        LATENT,
        ("shared_experts_lost", "named:scaled", "the shared experts are left out", {"module": "mlp.shared_experts", "factor": 0.0}),
        ("shared_experts_twice", "named:scaled", "the shared experts count twice", {"module": "mlp.shared_experts", "factor": 2.0}),
    ),
    *_faults(
        "mixtures of experts",
        LATENT,
        ("correction_lost", "named:weight", "the router's correction bias is lost",
         {"name": "mlp.gate.e_score_correction_bias", "how": "zero"}),
        ("correction_negated", "named:weight", "the router's correction bias is subtracted",
         {"name": "mlp.gate.e_score_correction_bias", "how": "negated"}),
        kind="weights",
    ),
    *_faults(
        "mixtures of experts",
        HYBRID,
        ("shared_expert_lost", "named:scaled", "the shared expert is left out", {"module": "mlp.shared_expert", "factor": 0.0}),
        ("shared_gate_halved", "named:scaled", "the shared expert's gate reads half", {"module": "mlp.shared_expert_gate", "factor": 0.5}),
    ),
    *_faults(
        "mixtures of experts",
        GPT_OSS,
        ("expert_bias_lost", "named:weight", "the experts' last biases are lost", {"name": "mlp.experts.down_proj_bias", "how": "zero"}),
        ("expert_bias_before_lost", "named:weight", "the experts' first biases are lost",
         {"name": "mlp.experts.gate_up_proj_bias", "how": "zero"}),
        ("router_bias_lost", "named:weight", "the router's bias is lost", {"name": "mlp.router.bias", "how": "zero"}),
        kind="weights",
    ),
    *_faults(
        "mixtures of experts",
        GPT_OSS,
        ("clamp_lost", "named:attribute", "one layer's experts do not cut their gates",
         {"module": "mlp.experts", "name": "limit", "value": 1e4}),
        ("swiglu_plain", "named:attribute", "one layer's experts have the plain SiLU",
         {"module": "mlp.experts", "name": "alpha", "value": 1.0}),
    ),
)  # fmt: skip

SINKS: Final = _faults(
    "sinks",
    GPT_OSS,
    ("sink_lost", "named:weight", "one layer has no sinks", {"name": "self_attn.sinks", "how": "lost"}),
    ("sink_zero", "named:weight", "one layer's sinks are zero", {"name": "self_attn.sinks", "how": "zero"}),
    ("sink_of_the_next_head", "named:weight", "each head has the sink of the one before", {"name": "self_attn.sinks", "how": "rolled"}),
    kind="weights",
)  # fmt: skip

LATENTS: Final = (
    *_faults(
        "latent attention",
        LATENT,
        ("query_latent_norm_lost", "named:bypassed", "one layer does not norm its queries' latent", {"module": "self_attn.q_a_layernorm"}),
        ("latent_norm_lost", "named:bypassed", "one layer does not norm its keys' latent", {"module": "self_attn.kv_a_layernorm"}),
        ("latent_scaled", "named:scaled", "one layer's latent is 1 % too large", {"module": "self_attn.kv_a_layernorm", "factor": 1.01}),
        ("magnitude_lost", "named:attribute", "one layer's scores lack YaRN's magnitude",
         {"module": "self_attn", "name": "scaling", "value": 20**-0.5}),
    ),
)  # fmt: skip

STATES: Final = (
    *_faults(
        "recurrent states",
        HYBRID,
        ("state_kept", "recurrent:state", "a request begins with the state of the one before", {"how": "kept"}),
        ("state_stale", "recurrent:state", "every second step does not store its state", {"how": "stale"}),
        ("state_rows_crossed", "recurrent:state", "rows read each other's state", {"how": "rows"}),
        ("conv_state_shifted", "recurrent:state", "the convolution's window is one token off", {"how": "conv_shifted"}),
        ("conv_state_lost", "recurrent:state", "the convolution's window is empty in decode steps", {"how": "conv_lost"}),
        ("conv_rows_crossed", "recurrent:state", "rows read each other's convolution", {"how": "conv_rows"}),
        ("state_reads_padding", "recurrent:padding", "padding enters the state", {}),
        wants=STATE,
    ),
    *_faults(
        "recurrent states",
        HYBRID,
        ("state_coarse", "recurrent:state", "the state of an fp32 run is kept in bf16", {"how": "coarse"}),
        wants=STATE,
        dtypes=FP32,
    ),
    *_faults(
        "recurrent states",
        HYBRID,
        ("decay_lost", "named:weight", "the state does not decay", {"name": "linear_attn.A_log", "how": "lost"}),
        ("decay_bias_lost", "named:weight", "the decay's bias is lost", {"name": "linear_attn.dt_bias", "how": "zero"}),
        ("taps_reversed", "named:weight", "the convolution's taps are read backwards", {"name": "linear_attn.conv1d.weight", "how": "reversed"}),
        kind="weights",
    ),
    *_faults(
        "recurrent states",
        HYBRID,
        ("output_gate_lost", "named:bypassed", "the gated norm behind the state is left out", {"module": "linear_attn.norm"}),
        ("rates_halved", "named:scaled", "the rates of the state are half of what they should be",
         {"module": "linear_attn.in_proj_ba", "factor": 0.5}),
    ),
)  # fmt: skip

CACHES: Final = _faults(
    "caches of some architectures",
    CACHED,
    ("cache_stale", "cache:stale_kv", "a layer's cache stores the previous token at each decode step", {"layer": 1}),
    ("cache_clobbered", "cache:altered_kv", "the newest key overwrites the oldest", {"how": "clobbered", "layer": 1}),
    ("cache_shifted", "cache:altered_kv", "values are read one place late", {"how": "shifted", "layer": 1}),
    ("cache_rows_swapped", "cache:altered_kv", "two rows read each other's cache", {"how": "rows", "layer": 1}),
    ("cache_of_before", "cache:kv_of_before", "a request reads a key of the request before", {"layer": 1}),
    wants=STATE,
)  # fmt: skip

FAULTS: Final = (*WINDOWS, *NORMS, *EXPERTS, *SINKS, *LATENTS, *STATES, *CACHES)
