"""The `accelerate` engine: one process, weights spread or offloaded by accelerate's hooks. No process group."""

from __future__ import annotations

from genqual.engines.hf.timed_import import Phases

from typing import Any, Final

import accelerate
import torch

from genqual.cases import Json
from genqual.engines.base import LoadRequest
from genqual.engines.hf import evidence, scratch
from genqual.engines.hf.base import HfEngine
from genqual.engines.hf.from_pretrained import empty, read
from genqual.engines.hf.preflight import checkpoint_bytes
from genqual.engines.hf.quantise import bitsandbytes_config
from genqual.engines.hf.runtime import accelerator, dtype_of
from genqual.errors import BadInput, Unsupported
from genqual.models import safetensor, weights
from genqual.models.build import dtypes_by_rule, stored_tensors

PLACEMENTS: Final = ("auto", "split", "cpu-offload", "disk-offload", "disk", "dispatch")


class Accelerate(HfEngine):
    """Options: `placement`, of PLACEMENTS; `max_memory`; `contiguous_rows`; `offload_folder`; `attn_implementation`.

    auto: `device_map="auto"`, what does not fit into `max_memory` of the device goes to the host and then to disk.
    split: layers in equal parts over the devices, in order; on a CPU two parts on one device, with the hooks between.
    cpu-offload, disk-offload: accelerate's functions of these names, every weight fetched for its module's forward.
    disk: the second half of the layers on disk. dispatch: `load_checkpoint_and_dispatch`, no weight read twice.
    """

    name = "accelerate"

    def make(self, request: LoadRequest, phases: Phases) -> Any:
        placement = request.options.get("placement", "auto")
        if placement not in PLACEMENTS:
            raise BadInput(f"placement {placement!r}: accelerate is run with {', '.join(PLACEMENTS)}")
        quantised_where = {"auto"} if request.device == "cpu" else {"auto", "split"}
        if request.dtype == "int8-bitsandbytes" and placement not in quantised_where:
            raise Unsupported(
                f"placement={placement} of int8-bitsandbytes: transformers makes the integers while it reads, and "
                f"keeps none elsewhere; run placement={' or '.join(sorted(quantised_where))}"
            )
        self._placement = str(placement)
        self._folder: Any = None
        model = getattr(self, f"_{self._placement.replace('-', '_')}")(request, phases)
        phases.end("shard")
        return model

    def share(self, request: LoadRequest) -> float:
        on_disk = request.options.get("placement") == "disk" or request.options.get("max_memory") is not None
        return 0.5 if on_disk else 1.0

    def details(self) -> dict[str, Json]:
        where = getattr(self.model, "hf_device_map", None) or {"": f"{self._torch_device} ({self._placement})"}
        return {
            "accelerate": accelerate.__version__,
            "placement": self._placement,
            "device_map": {str(name): str(device) for name, device in where.items()},
            "offloaded_tensors": sum(1 for parameter in self.model.parameters() if parameter.is_meta),
        }

    def _auto(self, request: LoadRequest, phases: Phases) -> Any:
        limit = request.options.get("max_memory")
        options: dict[str, Any] = {"device_map": "auto"}
        if request.device == "cpu" and limit is None:
            options["device_map"] = {"": "cpu"}
        elif limit is not None:
            first: Any = "cpu" if request.device == "cpu" else 0
            options |= {"max_memory": {first: limit}, "offload_folder": str(self._scratch(request))}
        model = read(request, **options, **self._quantised(request))
        return contiguous_rows(model) if request.options.get("contiguous_rows") else model

    def _split(self, request: LoadRequest, phases: Phases) -> Any:
        if request.device == "cpu":  # torch moves nothing to a second CPU device; accelerate's hooks do the rest
            model = read(request)
            phases.end("read")
            return accelerate.dispatch_model(model, spread(model, ["cpu", "cpu"]), force_hooks=True)
        parts = [f"{request.device}:{index}" for index in range(accelerator(request.device).device_count())]
        return read(request, device_map=spread(empty(request), parts), **self._quantised(request))

    def _disk(self, request: LoadRequest, phases: Phases) -> Any:
        near = "cpu" if request.device == "cpu" else str(self._torch_device)
        places = spread(empty(request), [near, "disk"])
        return read(request, device_map=places, offload_folder=str(self._scratch(request)), **self._quantised(request))

    def _cpu_offload(self, request: LoadRequest, phases: Phases) -> Any:
        model = read(request)
        phases.end("read")
        return accelerate.cpu_offload(model, execution_device=self._torch_device)

    def _disk_offload(self, request: LoadRequest, phases: Phases) -> Any:
        model = read(request)
        phases.end("read")
        folder = str(self._scratch(request) / "weights")
        return accelerate.disk_offload(model, folder, execution_device=self._torch_device)

    def _dispatch(self, request: LoadRequest, phases: Phases) -> Any:
        model = empty(request)
        model.tie_weights()
        near: Any = "cpu" if request.device == "cpu" else self._torch_device
        asked, folder = dtype_of(request.dtype), weights.directory(request.model)
        rule = dtypes_by_rule(type(model), model.config, asked)
        stored, own = safetensor.checkpoint(folder), {name for name, _ in stored_tensors(model)}
        kept = sorted(name for name, dtype in rule.items() if dtype != asked)
        if kept:
            raise Unsupported(
                f"placement=dispatch: accelerate casts every weight to {request.dtype}, and {request.model.name} keeps "
                f"{len(kept)} of its own in another dtype ({kept[0]}); take placement=auto"
            )
        if own - stored.keys() - evidence.tied(model) and (foreign := sorted(stored.keys() - own)):
            raise Unsupported(
                f"placement=dispatch: accelerate reads weights by the names of the model's parameters, and "
                f"{len(foreign)} of this checkpoint have others, which transformers renames or stacks as it loads "
                f"({foreign[0]}); take placement=auto"
            )
        model = accelerate.load_checkpoint_and_dispatch(model, str(folder), device_map={"": near}, dtype=asked)
        missing = [name for name, parameter in model.named_parameters() if parameter.is_meta]
        if missing:
            raise BadInput(
                f"model {request.model.location}: its checkpoint lacks {', '.join(missing[:5])}, so nothing is judged; "
                "use a complete checkpoint"
            )
        return model

    def _scratch(self, request: LoadRequest) -> Any:
        where = request.options.get("offload_folder")
        if self._folder is None:
            need = checkpoint_bytes(request.model, request.dtype)
            self._folder = scratch.make(None if where is None else str(where), need, "weights offloaded to disk")
        return self._folder

    def _quantised(self, request: LoadRequest) -> dict[str, Any]:
        return bitsandbytes_config() if request.dtype == "int8-bitsandbytes" else {}


def contiguous_rows(model: Any) -> Any:
    """`model`, whose head is given rows that lie side by side: they are multiplied by one matrix. In place.

    The head reads a slice, the last steps of each row. torch makes a batched product of such a slice, for which oneDNN
    copies the matrix once a row in bf16 (torch 2.13): eight rows of Llama 3's 8B took 8.4 GB, where memory was limited.
    """
    head = model.get_output_embeddings()
    if head is not None:
        head.register_forward_pre_hook(lambda _, given: (given[0].contiguous(), *given[1:]))
    return model


def spread(model: Any, places: list[str]) -> dict[str, str]:
    """A device map: embeddings with the first of `places`, layers in equal parts, norm and head with the last."""
    body = model.get_submodule(model.base_model_prefix)
    (layers,) = [name for name, module in body.named_children() if isinstance(module, torch.nn.ModuleList)]
    count = len(getattr(body, layers))
    found: dict[str, str] = {}
    seen = False
    for name, _ in body.named_children():
        whole = f"{model.base_model_prefix}.{name}"
        if name == layers:
            seen = True
            found |= {f"{whole}.{index}": places[index * len(places) // count] for index in range(count)}
        else:
            found[whole] = places[-1] if seen and name != "rotary_emb" else places[0]
    found |= {
        name: places[-1]
        for name, module in model.named_children()
        if name != model.base_model_prefix and list(module.parameters())
    }
    return found
