"""The engines genqual ships, as facts. No torch: the pytest process reads them, and ranks import what they name."""

from __future__ import annotations

from typing import Final

from genqual.cases import PRECISIONS
from genqual.engines.base import ABILITIES, EngineSpec, OnlyWith

_COMMON: Final = {
    "attn_implementation": "eager or sdpa; absent, transformers chooses",
    "host_memory": "what a rank may allocate on the host (700MB, 1.5GiB), held by the kernel: a batch beyond it is OOM",
}

_GRAPHS: Final = {
    "graphs": "none, static (its cache only), compile, cuda or hpu: how the decode step is run",
    "compile_mode": "Inductor's: default, reduce-overhead, max-autotune, max-autotune-no-cudagraphs",
    "dynamic": "true: with compile, one graph for any rows and length; quicker to compile, slower to run",
    "cpp_wrapper": "true: with compile, Inductor calls its kernels from C++; less time between them, longer to compile",
    "cache_bucket": "with static, compile and cuda, cache lengths are multiples of so many tokens (128)",
}

_TORCHAO: Final = frozenset({"int8-weight", "int8-dynamic", "int8-smoothquant"})

ALL_DTYPES: Final = frozenset({"fp32", "bf16", "fp16"})

HF_ABILITIES: Final = {  # of every engine that derives from engines.hf
    "passes": "genqual.engines.hf.abilities:score_passes",
    "stops": "genqual.engines.hf.abilities:generate_until",
    "states": "genqual.engines.hf.abilities:states",
    "inputs": "genqual.engines.hf.abilities:inputs_kept",
    "first": "genqual.engines.hf.abilities:first_answer",
}


def _by_graphs(default: str) -> tuple[OnlyWith, ...]:
    """Abilities of an engine that times what its option `graphs` says, `default` where it is not given."""
    recorded = ("static", "compile", "cuda", "hpu")
    no_parts = (
        "reads parts of a text through an eager cache that grows, and times a static cache or a recorded graph: "
        "graphs=none does both alike"
    )
    no_hooks = "replays a recorded graph, which runs no hook and so shows no hidden states"
    return (
        OnlyWith("graph", "graphs", recorded, default, ABILITIES["graph"]),
        OnlyWith("passes", "graphs", ("none",), default, no_parts),
        OnlyWith("states", "graphs", ("none", "static", "compile", "cuda"), default, no_hooks),
    )


TOP_ABILITY: Final = {"top": "genqual.engines.remote.base:generate_top"}  # asked for; whether it comes is seen then

TRANSFORMERS: Final = EngineSpec(
    name="transformers",
    implementation="genqual.engines.hf.eager:TransformersEager",
    summary="transformers' own generate, eager PyTorch, one rank",
    devices=frozenset({"cpu", "xeon", "cuda", "hpu", "xpu"}),
    dtypes=ALL_DTYPES | _TORCHAO | {"fp8"},
    max_ranks=1,
    modules=("torch", "transformers"),
    accepts={**_COMMON, **_GRAPHS, "emulate": "true, with fp8: its rounding on a CPU, of which envelopes are made"},
    abilities={**HF_ABILITIES, "graph": ""},
    conditions=_by_graphs("none"),
)

TRANSFORMERS_COMPILED: Final = EngineSpec(
    name="transformers-compiled",
    implementation="genqual.engines.hf.compiled:TransformersCompiled",
    summary="transformers' generate with a static cache and a torch.compile'd decode step, one rank",
    devices=frozenset({"cpu", "xeon", "cuda", "xpu"}),
    dtypes=ALL_DTYPES | _TORCHAO,
    max_ranks=1,
    modules=("torch", "transformers"),
    needs_compiler=True,
    accepts={**_COMMON, **_GRAPHS},
    abilities={**HF_ABILITIES, "graph": ""},
    conditions=_by_graphs("compile"),
)

# In 4.55 and in 5.23. Of others that have none the ranks say so, by the release that is installed.
_PLANLESS: Final = tuple(
    (name, f"transformers has no tensor parallel plan for {name} (base_model_tp_plan of its configuration is None)")
    for name in ("bloom", "falcon", "gpt2", "lfm2", "mamba2", "mpt", "opt")
)

TRANSFORMERS_TP: Final = EngineSpec(
    name="transformers-tp",
    implementation="genqual.engines.hf.tensor_parallel:TransformersTP",
    summary='transformers\' own tensor parallelism, tp_plan="auto", two ranks or more',
    devices=frozenset({"cpu", "xeon", "cuda", "xpu"}),
    dtypes=ALL_DTYPES,
    min_ranks=2,
    sharing="evenly",
    modules=("torch", "transformers", "accelerate"),
    accepts=_COMMON,
    lacks=_PLANLESS,
    abilities=HF_ABILITIES,
)

OPENVINO: Final = EngineSpec(
    name="openvino",
    implementation="genqual.engines.openvino:OpenVino",
    summary="OpenVINO through optimum-intel, one rank; in an environment of its own (tox -e openvino)",
    devices=frozenset({"cpu", "xeon"}),
    dtypes=frozenset({"fp32", "bf16"}),
    max_ranks=1,
    modules=("torch", "transformers", "optimum", "openvino"),
    architectures=frozenset({"bloom", "llama"}),
)

SERVER: Final = EngineSpec(
    name="server",
    implementation="genqual.engines.remote.openai_server:Server",
    summary="any OpenAI-compatible server (--endpoint URL), judged by its tokens, timed by its client",
    devices=frozenset({"cpu", "xeon", "cuda", "hpu", "xpu"}),
    dtypes=frozenset(PRECISIONS),
    max_ranks=1,
    modules=("openai",),
    tier="tokens",
    abilities={**TOP_ABILITY, "fields": "genqual.engines.remote.openai_server:unheeded_fields"},
    unseen={
        "load_s": "a server has loaded its model before genqual speaks to it",
        "peak_memory": "a client does not see the server's memory",
    },
    settings=(("endpoint", "--endpoint URL, the base URL of a running OpenAI-compatible server"),),
)

EXTERNAL: Final = EngineSpec(
    name="external",
    implementation="genqual.engines.remote.external:External",
    summary="a third party's program (--engine-command COMMAND), spoken to in JSON lines, judged by its tokens",
    devices=frozenset({"cpu", "xeon", "cuda", "hpu", "xpu"}),
    dtypes=frozenset(PRECISIONS),
    max_ranks=1,
    tier="tokens",
    abilities=TOP_ABILITY,
    settings=(("command", "--engine-command COMMAND, the program to qualify (docs/engines.md)"),),
)

AUTOTP: Final = frozenset(
    {"bloom", "deepseek_v2", "deepseek_v3", "falcon", "gemma", "gemma2", "gemma3_text", "gpt_neox", "granite", "llama"}
    | {"mistral", "mpt", "opt", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "starcoder2"}
)
"""What AutoTP of DeepSpeed 0.19.8 shards rightly: two ranks judged by the oracle, on small odd checkpoints."""
_CUT: Final = "DeepSpeed 0.19.8: AutoTP cuts parts that belong together, and the first pass ends on their shapes"
_NO_AUTOTP: Final = (
    *((name, _CUT) for name in ("gpt_oss", "lfm2", "mamba2", "olmo2", "phi3", "qwen3_next")),
    ("gpt2", "DeepSpeed 0.19.8: AutoTP refuses GPT-2, for which it has kernels to inject (on CUDA only)"),
    ("mixtral", "DeepSpeed 0.19.8: AutoTP shards Mixtral's attention alone; its experts are whole on every rank"),
)

DEEPSPEED_INFERENCE: Final = EngineSpec(
    name="deepspeed-inference",
    implementation="genqual.engines.deepspeed.inference:DeepSpeedInference",
    summary="DeepSpeed-Inference with AutoTP (no kernel injection), one rank or more",
    sharing="unevenly",
    devices=frozenset({"cpu", "xeon", "cuda", "xpu"}),
    dtypes=ALL_DTYPES,
    modules=("torch", "transformers", "deepspeed"),
    abilities=HF_ABILITIES,
    architectures=AUTOTP,
    lacks=_NO_AUTOTP,
    accepts={
        **_COMMON,
        "load": "unsharded, meta (no rank ever holds the whole model) or presharded",
        "kernel_inject": "true: DeepSpeed's own kernels, where platform and version have them",
    },
    lacks_dtypes=(
        (
            "int8-deepspeed",
            "DeepSpeed's int8 lives in its injected kernels, which exist on CUDA only and refuse transformers after "
            "4.43.4; AutoTP would cast the weights to int8 without scales",
        ),
    ),
)

ACCELERATE: Final = EngineSpec(
    name="accelerate",
    implementation="genqual.engines.hf.accelerate:Accelerate",
    summary="accelerate: one process, weights spread over devices, or offloaded to the host or to disk",
    devices=frozenset({"cpu", "xeon", "cuda", "xpu"}),
    dtypes=ALL_DTYPES | {"int8-bitsandbytes"},
    max_ranks=1,
    modules=("torch", "transformers", "accelerate"),
    abilities={**HF_ABILITIES, "split": "", "offload": ""},
    conditions=(  # what auto does is seen when it is loaded
        OnlyWith("split", "placement", ("split", "auto"), "auto", ABILITIES["split"]),
        OnlyWith("offload", "placement", ("cpu-offload", "disk-offload", "disk", "auto"), "auto", ABILITIES["offload"]),
    ),
    accepts={
        **_COMMON,
        "placement": "auto (device_map), split, cpu-offload, disk-offload, disk (half of the layers), dispatch",
        "max_memory": "what the device may hold with placement=auto (200MB, 40GiB, as accelerate reads it)",
        "contiguous_rows": "true: the head reads rows side by side, as tolerances of streamed weights are made",
        "offload_folder": "where placements on disk put the weights; default: the temporary directory",
    },
)

DEEPSPEED_ZERO: Final = EngineSpec(
    name="deepspeed-zero",
    implementation="genqual.engines.deepspeed.zero:DeepSpeedZero",
    summary="DeepSpeed ZeRO-3 inference: weights shared by all ranks, a stream of own prompts in each",
    devices=frozenset({"cpu", "xeon", "cuda", "xpu"}),
    dtypes=ALL_DTYPES,
    modules=("torch", "transformers", "deepspeed"),
    architectures=frozenset({"bloom", "llama"}),
    streams=True,
    abilities={
        **{name: HF_ABILITIES[name] for name in ("states", "inputs", "first")},
        "streams": "genqual.engines.deepspeed.zero:streams",
    },
    accepts={
        **_COMMON,
        "offload": "none, cpu or nvme: where partitions wait until they are gathered",
        "nvme_path": "folder on the NVMe, with offload=nvme; default: the temporary directory",
        "synced_gpus": "false lets a stream that has ended leave its peers waiting: only to show that this hangs",
    },
)

OPTIMUM_HABANA: Final = EngineSpec(
    name="optimum-habana",
    implementation="genqual.engines.habana.engine:OptimumHabana",
    summary="Habana's own models and generate (optimum-habana 1.21.2), HPU graphs, DeepSpeed over 2, 4 or 8 cards",
    devices=frozenset({"hpu"}),
    dtypes=frozenset({"fp32", "bf16", "fp8"}),
    max_ranks=8,
    sharing="unevenly",
    modules=("torch", "transformers", "optimum.habana"),
    architectures=frozenset({"bloom", "llama"}),
    accepts={
        "attn_implementation": "eager or sdpa; absent, transformers chooses",
        "hpu_graphs": "true or false: record the forward and replay it (true in lazy mode)",
        "max_graphs": "how many graphs are kept",
        "torch_compile": "true: torch.compile with Habana's backend; eager mode",
        "static_shapes": "true or false: the prompt padded to its final length, so that no shape grows (true)",
        "bucket_size": "grow by so many tokens instead; with bucket_internal the cache is read in such pieces",
        "bucket_internal": "true or false",
        "reuse_cache": "true: one cache in the model, written in place (Llama)",
        "reduce_recompile": "true or false",
        "limit_hpu_graphs": "true: the first token outside the graph, to save memory",
        "clear_hpu_graphs_cache": "true or false",
        "trim_logits": "true: logits of the last position only",
        "attn_softmax_bf16": "true: softmax in bf16",
        "use_flash_attention": "true: Habana's fused attention",
        "flash_attention_recompute": "true or false",
        "flash_attention_causal_mask": "true or false",
        "flash_attention_fast_softmax": "true: its softmax in reduced precision",
    },
    lacks_dtypes=(("fp16", "Gaudi computes in bf16, fp32 and fp8; fp16 works on some generations only"),),
)
