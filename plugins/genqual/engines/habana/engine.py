"""The `optimum-habana` engine: Habana's own models and generate, HPU graphs, DeepSpeed. Every step is synchronised.

The vendor's "rest token latency" synchronises the first token only: the time of dispatch. Nothing here reads it.
"""

from __future__ import annotations

from genqual.engines.hf.timed_import import Phases

import importlib
import importlib.metadata
import inspect
from pathlib import Path
from typing import Any, Final

import torch

from genqual.cases import Json
from genqual.engines.base import Generated, LoadRequest, TokenBatch
from genqual.engines.deepspeed.inference import quiet
from genqual.engines.habana import counters
from genqual.engines.habana.fp8 import Fp8
from genqual.engines.hf import caches
from genqual.engines.hf.base import WARM_TOKENS, HfEngine
from genqual.engines.hf.from_pretrained import check_heads, read
from genqual.engines.hf.runtime import BACKENDS, dtype_of
from genqual.errors import BadInput, Unsupported

# Options that go to the vendor's GaudiGenerationConfig under the same name, with what they have to be.
GENERATION: Final = {
    "attn_softmax_bf16": bool,
    "bucket_internal": bool,
    "bucket_size": int,
    "clear_hpu_graphs_cache": bool,
    "flash_attention_causal_mask": bool,
    "flash_attention_fast_softmax": bool,
    "flash_attention_recompute": bool,
    "limit_hpu_graphs": bool,
    "reduce_recompile": bool,
    "reuse_cache": bool,
    "static_shapes": bool,
    "trim_logits": bool,
    "use_flash_attention": bool,
}
OWN: Final = {"hpu_graphs": bool, "max_graphs": int, "torch_compile": bool}


class OptimumHabana(HfEngine):
    """Options: `hpu_graphs` (true in lazy mode), `max_graphs`, `torch_compile` (eager mode), those of GENERATION.

    fp8 is chosen as the vendor does it, by QUANT_CONFIG in the environment (`engines.gaudi_fp8`).
    """

    name = "optimum-habana"

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[str, int] = {}

    def make(self, request: LoadRequest, phases: Phases) -> Any:
        check_heads(request, "unevenly")
        self._lazy = counters.lazy()
        self._read_options(request)
        adapt = importlib.import_module("optimum.habana.transformers.modeling_utils").adapt_transformers_to_gaudi
        generation = importlib.import_module("optimum.habana.transformers.generation")
        self._gaudi_config = generation.GaudiGenerationConfig
        with quiet():  # it prints which kernels there are, once a model
            adapt()
        self._fp8 = Fp8(request.dtype)
        phases.end("import")
        model = read(request)
        if type(model).generate is not generation.GaudiGenerationMixin.generate:
            raise Unsupported(f"optimum-habana left {type(model).__name__} without its own generate")
        phases.end("read")
        model = self._sharded(model, request) if request.world_size > 1 else model
        model = self._fp8.applied(model)
        model = model.eval().to(self._torch_device)
        phases.end("shard")
        self._signature = inspect.signature(model.forward).parameters
        if self._graphs:
            hpu = importlib.import_module("habana_frameworks.torch.hpu")
            model = hpu.wrap_in_hpu_graph(model, max_graphs=request.options.get("max_graphs"))
        elif self._compiled:
            self._compile(model)
        self._fp8.started(model)
        phases.end("compile")
        return model

    def generate(self, batch: TokenBatch, new_tokens: int) -> Generated:
        before = counters.counters()
        made = super().generate(batch, new_tokens)
        self._last = counters.since(before)
        return made

    def run_generate(self, **inputs: Any) -> Any:
        config = self._gaudi_config(**inputs.pop("generation_config").to_dict())
        config.static_shapes = True
        config.ignore_eos = True  # the vendor's name for: no row stops early, and nothing is read back to know
        for name in GENERATION:
            if name in self.request.options:
                setattr(config, name, self.request.options[name])
        return self.model.generate(**inputs, generation_config=config, lazy_mode=self._lazy, hpu_graphs=self._graphs)

    def after_decode(self, steps: int) -> None:
        self._fp8.kept(self.model)

    def details(self) -> dict[str, Json]:
        return {
            "optimum_habana": importlib.metadata.version("optimum-habana"),
            "synapse_bridge": importlib.metadata.version("habana-torch-plugin"),
            "lazy_mode": self._lazy,
            "hpu_graphs": self._graphs,
            "torch_compile": self._compiled,
            "quant_config": Path(self._fp8.file).name if self._fp8.file else None,  # no path of a host
            "fp8_step": self._fp8.step,
            "counters": dict(counters.counters()),
            "last_generate": dict(self._last),
        }

    # Inside.

    def _read_options(self, request: LoadRequest) -> None:
        for name, kind in (GENERATION | OWN).items():
            value = request.options.get(name)
            if value is not None and type(value) is not kind:
                raise BadInput(f"{name} {value!r}: optimum-habana wants {kind.__name__}, such as true or 128")
        self._graphs = bool(request.options.get("hpu_graphs", self._lazy))
        self._compiled = bool(request.options.get("torch_compile", False))
        if self._graphs and not self._lazy:
            raise Unsupported("HPU graphs exist in lazy mode only: set PT_HPU_LAZY_MODE=1, or hpu_graphs=false")
        if self._compiled and self._lazy:
            raise Unsupported("torch.compile on a Gaudi needs eager mode: set PT_HPU_LAZY_MODE=0")

    def _sharded(self, model: Any, request: LoadRequest) -> Any:
        """This card's part of the model, by DeepSpeed-Inference with the vendor's own injection policy."""
        deepspeed = importlib.import_module("deepspeed")
        policy = importlib.import_module("optimum.habana.checkpoint_utils").get_ds_injection_policy(model.config)
        with quiet():
            deepspeed.init_distributed(dist_backend=BACKENDS[request.device], verbose=False)
            # Without enable_cuda_graph, which upstream refuses for several ranks: the graph is wrapped around later.
            made = deepspeed.init_inference(
                model,
                dtype=dtype_of(request.dtype),
                tensor_parallel={"tp_size": request.world_size},
                injection_policy=policy,
            )
        return made.module

    def _compile(self, model: Any) -> None:
        body = "transformer" if hasattr(model, "transformer") else "model"
        compiled = torch.compile(getattr(model, body), backend="hpu_backend", options={"keep_input_mutations": True})
        setattr(model, body, compiled)

    def _warm(self) -> int:
        """As every engine's, with what the vendor's models read first."""
        self._parameters = self._signature
        self.model.generation_config = self._gaudi_config(
            pad_token_id=0
        )  # its Llama reads fields that only this one has
        return super()._warm()

    def _measured(self, cache: Any) -> int:
        """As every engine's; the vendor keeps a cache as tuples, and a wrapped forward hides its arguments."""
        self._cache_class = type(cache).__name__
        if getattr(cache, "layers", None):
            return caches.cache_bytes(cache) // WARM_TOKENS
        return sum(part.numel() * part.element_size() for layer in cache for part in layer[:2]) // WARM_TOKENS
