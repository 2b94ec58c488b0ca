"""The `openvino` engine: OpenVINO on the CPU through optimum-intel's generate. Needs an environment of its own.

optimum-intel pins another transformers than the rest of genqual is run with: `tox -e openvino`.
"""

from __future__ import annotations

from genqual.engines.hf.timed_import import IMPORT_S, Phases

import inspect
import logging
import time
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig

from genqual import digest
from genqual.cases import Json
from genqual.dtypes import FORMATS
from genqual.engines.base import Loaded, LoadRequest
from genqual.engines.hf import runtime
from genqual.engines.hf.base import HfEngine
from genqual.errors import Unsupported
from genqual.models import weights
from genqual.models.attention_shape import POSITIONS, positions_of

PRECISIONS = {"fp32": "f32", "bf16": "bf16"}


class OpenVino(HfEngine):
    """The model is exported at each load, and compiled with the declared precision for arithmetic and cache alike."""

    name = "openvino"

    def make(self, request: LoadRequest, phases: Phases) -> Any:
        try:
            from optimum.intel import OVModelForCausalLM
        except ImportError as error:
            raise Unsupported(
                f"optimum-intel is not here ({error}); it pins another transformers: run `tox -e openvino`"
            ) from error
        logging.getLogger("nncf").setLevel(logging.ERROR)
        precision = PRECISIONS[request.dtype]
        narrow = precision == "bf16" and request.threads == 1 and request.model.architecture == "llama"
        if narrow and torch.cpu._is_amx_tile_supported():  # seen on Sapphire Rapids; Zen 4 has no AMX, and compiles it
            raise Unsupported(
                "OpenVINO 2026.4 ends the process by SIGFPE when it compiles a Llama for bf16 with one thread on a "
                "processor with AMX; give a rank more cores ([host] cores_per_rank in a profile), or run fp32"
            )
        phases.end("import")
        model = OVModelForCausalLM.from_pretrained(
            str(weights.directory(request.model)),
            export=True,
            compile=False,
            load_in_8bit=False,  # above a billion weights it would quantise unasked
            device="CPU",
            ov_config={
                "INFERENCE_PRECISION_HINT": precision,
                "KV_CACHE_PRECISION": precision,
                "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
                "INFERENCE_NUM_THREADS": str(request.threads),
                "NUM_STREAMS": "1",
                "PERFORMANCE_HINT": "LATENCY",
            },
        )
        phases.end("read")
        model.compile()
        phases.end("compile")
        return model

    @runtime.mapping_oom
    def load(self, request: LoadRequest) -> Loaded:
        start, phases = time.perf_counter(), Phases(partial(runtime.held_bytes, request.device))
        self.request, self.device = request, request.device
        runtime.setup(request)
        self._torch_device = torch.device("cpu")
        self.model = self.make(request, phases)
        self._imports_bytes = phases.imports_bytes
        self.model.generation_config = GenerationConfig(pad_token_id=0)
        self._parameters = inspect.signature(self.model.forward).parameters
        self._cache_class = "OpenVINO state"
        with torch.no_grad():
            self.model(input_ids=torch.ones((1, 4), dtype=torch.int64))
        phases.end("warm")
        phases["import"] += IMPORT_S
        config = self.model.config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        wide = FORMATS[request.dtype].bytes
        constants = self._constants()
        return Loaded(
            load_s=time.perf_counter() - start + IMPORT_S,
            weight_bytes=sum(one.nbytes for one in constants),
            parameters=sum(one.size for one in constants),
            vocabulary=int(config.vocab_size),
            max_positions=positions_of({name: getattr(config, name, None) for name in ("model_type", *POSITIONS)}),
            kv_bytes_per_token=2 * config.num_hidden_layers * heads * width * wide,
            weight_hash=self.weight_hash(),
            phases=dict(phases),
        )

    def weight_hash(self) -> str:
        """Of every matrix and vector of the exported graph, in its order."""
        return digest.of_parts(
            f"{one.dtype}{one.shape}".encode() + np.ascontiguousarray(one).tobytes() for one in self._constants()
        )

    def _constants(self) -> list[Any]:
        """The graph's weights: constants of more than a few numbers; the others are shapes and axes."""
        ops = self.model.model.get_ordered_ops()
        return [op.data for op in ops if op.get_type_name() == "Constant" and op.data.size > 16]

    def inspect(self) -> dict[str, Json]:
        compiled = self.model.request.get_compiled_model()

        def asked(name: str) -> str:
            return str(compiled.get_property(name))

        import openvino

        names = ("INFERENCE_PRECISION_HINT", "KV_CACHE_PRECISION", "INFERENCE_NUM_THREADS", "EXECUTION_DEVICES")
        return {
            "engine": self.name,
            "openvino": openvino.__version__,
            "cache": self._cache_class,
            **{name.lower(): asked(name) for name in names},
        }
