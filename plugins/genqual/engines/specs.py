"""The engines genqual ships, as facts. No torch: the pytest process reads them, and ranks import what they name."""

from __future__ import annotations

from typing import Final

from genqual.engines.base import EngineSpec

_ATTENTION: Final = {"attn_implementation": "eager or sdpa; absent, transformers chooses"}

ALL_DTYPES: Final = frozenset({"fp32", "bf16", "fp16"})

TRANSFORMERS: Final = EngineSpec(
    name="transformers",
    implementation="genqual.engines.transformers_eager:TransformersEager",
    summary="transformers' own generate, eager PyTorch, one rank",
    devices=frozenset({"xeon", "cuda", "hpu", "xpu"}),
    dtypes=ALL_DTYPES,
    max_ranks=1,
    modules=("torch", "transformers"),
    accepts=_ATTENTION,
)

TRANSFORMERS_COMPILED: Final = EngineSpec(
    name="transformers-compiled",
    implementation="genqual.engines.transformers_compiled:TransformersCompiled",
    summary="transformers' generate with a static cache and a torch.compile'd decode step, one rank",
    devices=frozenset({"xeon", "cuda", "xpu"}),
    dtypes=ALL_DTYPES,
    max_ranks=1,
    modules=("torch", "transformers"),
    needs_compiler=True,
    accepts={
        **_ATTENTION,
        "compile_mode": "Inductor's: default, reduce-overhead, max-autotune, max-autotune-no-cudagraphs",
        "cache_bucket": "cache lengths are multiples of so many tokens (128)",
    },
)

TRANSFORMERS_TP: Final = EngineSpec(
    name="transformers-tp",
    implementation="genqual.engines.transformers_tp:TransformersTP",
    summary='transformers\' own tensor parallelism, tp_plan="auto", two ranks or more',
    devices=frozenset({"xeon", "cuda", "xpu"}),
    dtypes=ALL_DTYPES,
    min_ranks=2,
    modules=("torch", "transformers", "accelerate"),
    architectures=frozenset({"llama"}),
    accepts=_ATTENTION,
    lacks=(("bloom", "transformers has no tensor parallel plan for BLOOM (BloomConfig.base_model_tp_plan is None)"),),
)

DEEPSPEED_INFERENCE: Final = EngineSpec(
    name="deepspeed-inference",
    implementation="genqual.engines.deepspeed_inference:DeepSpeedInference",
    summary="DeepSpeed-Inference with AutoTP (no kernel injection), one rank or more",
    devices=frozenset({"xeon", "cuda", "xpu"}),
    dtypes=ALL_DTYPES,
    modules=("torch", "transformers", "deepspeed"),
    architectures=frozenset({"bloom", "llama"}),
    accepts={**_ATTENTION, "kernel_inject": "true: DeepSpeed's own kernels, where platform and version have them"},
)
