"""The `deepspeed-zero` engine: ZeRO-3, weights partitioned over the ranks and gathered layer by layer. No sharded work.

Each rank is a stream with prompts of its own. A batch is divided among the streams in order, and what they made is put
together again on every rank, so that the suite asks a group of streams what it asks any other engine.
"""

from __future__ import annotations

from genqual.engines.hf.timed_import import Phases

import importlib
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any, Final

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from transformers.integrations import HfDeepSpeedConfig

from genqual import digest
from genqual.cases import Json
from genqual.engines.base import Generated, LoadRequest, Scores, TokenBatch
from genqual.engines.deepspeed import prebuild
from genqual.engines.deepspeed.inference import check_dtype, quiet
from genqual.engines.hf import scratch
from genqual.engines.hf.base import HfEngine
from genqual.engines.hf.from_pretrained import read
from genqual.engines.hf.preflight import checkpoint_bytes, largest_tensor
from genqual.engines.hf.process_group import join_alone
from genqual.engines.hf.runtime import BACKENDS
from genqual.errors import BadInput, Unsupported

OFFLOADS: Final = ("none", "cpu", "nvme")
_BLOCK: Final = 1 << 20  # bytes of one read of async_io


class DeepSpeedZero(HfEngine):
    """Options: `offload`, one of OFFLOADS; `nvme_path`; `synced_gpus`; `attn_implementation`.

    `load` partitions while it reads (`zero.Init` through transformers), so no rank ever holds the whole model.
    """

    name = "deepspeed-zero"

    def make(self, request: LoadRequest, phases: Phases) -> Any:
        offload = request.options.get("offload", "none")
        if offload not in OFFLOADS:
            raise BadInput(f"offload {offload!r}: ZeRO is run with {', '.join(OFFLOADS)}")
        self._offload = str(offload)
        self._synced = bool(request.options.get("synced_gpus", True)) and request.world_size > 1
        os.environ |= {"LOCAL_SIZE": str(request.local_size), "LOCAL_RANK": str(request.local_rank)}
        deepspeed = prebuild.deepspeed_on_cpu() if request.device == "cpu" else importlib.import_module("deepspeed")
        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
        check_dtype(request)
        prebuild.without_shared_memory()  # ZeRO gathers, it reduces nothing
        phases.end("import")
        self._async_io = prebuild.async_io(prebuild.to_stderr) if offload == "nvme" else "not needed"
        if self._async_io in {"no compiler", "not offered"}:
            raise Unsupported(
                f"offload=nvme needs DeepSpeed's async_io, which cannot be built here ({self._async_io}): install a "
                "C++ compiler, ninja and libaio with its headers (Debian: libaio-dev)"
            )
        phases.end("compile")
        settings = self._settings(request)
        with quiet():
            join_alone(request)
            deepspeed.init_distributed(dist_backend=BACKENDS[request.device], verbose=False)
            phases.end("join")
            partitioning = HfDeepSpeedConfig(settings)  # transformers partitions while it reads as long as this lives
            model = read(request, device_map=None)
            del partitioning  # it would partition every later model of this process, too
            phases.end("read")
            self._deepspeed = deepspeed.initialize(model=model, config=settings)[0]
        if self._offload == "nvme" and not self._on_nvme(self._deepspeed.module):
            raise Unsupported(
                "offload=nvme: DeepSpeed writes a weight to NVMe only where a rank's part of it has 1 MiB or more, and "
                f"no part of {request.model.name} in {request.dtype} over {request.world_size} rank(s) has; take a "
                "larger model, or fewer ranks"
            )
        self._version = deepspeed.__version__
        phases.end("shard")
        return self._deepspeed.module

    @staticmethod
    def _on_nvme(model: Any) -> int:
        """How many weights wait on NVMe."""
        found = (str(parameter.ds_tensor.final_location) for parameter in model.parameters())
        return sum(where.rpartition(".")[2] == "nvme" for where in found)

    def share(self, request: LoadRequest) -> float:
        return 0.0 if request.options.get("offload") == "nvme" else 1.0 / request.world_size

    def _settings(self, request: LoadRequest) -> dict[str, Any]:
        """DeepSpeed's configuration: stage 3, each parameter partitioned however small, so that what is run is ZeRO."""
        zero: dict[str, Any] = {"stage": 3, "stage3_param_persistence_threshold": 0}
        if self._offload == "cpu":
            zero["offload_param"] = {"device": "cpu", "pin_memory": request.device != "cpu"}
        elif self._offload == "nvme":
            where = request.options.get("nvme_path")
            need = checkpoint_bytes(request.model, request.dtype) // request.world_size
            self._folder = scratch.make(None if where is None else str(where), need, "weights offloaded to NVMe")
            largest = largest_tensor(request.model)
            zero["offload_param"] = {
                "device": "nvme",
                "nvme_path": str(self._folder),
                "pin_memory": request.device != "cpu",
                "buffer_count": 8,
                "buffer_size": -(-largest // _BLOCK) * _BLOCK,
                "max_in_cpu": 0,
            }
        return {
            "train_micro_batch_size_per_gpu": 1,
            "zero_optimization": zero,
            "bf16": {"enabled": request.dtype == "bf16"},
            "fp16": {"enabled": request.dtype == "fp16"},
            "aio": {"block_size": _BLOCK, "queue_depth": 8, "single_submit": False, "overlap_events": True},
            "steps_per_print": 1 << 30,
        }

    # One stream a rank.

    def run_generate(self, **inputs: Any) -> Any:
        return self.model.generate(**inputs, synced_gpus=self._synced)

    def generate(self, batch: TokenBatch, new_tokens: int) -> Generated:
        mine = super().generate(self._stream(batch), new_tokens)
        return replace(mine, tokens=self._together(mine.tokens, len(batch.ids), axis=0))

    def score(self, batch: TokenBatch, forced: NDArray[np.int64], *, logits: bool = False) -> Scores:
        mine = super().score(self._stream(batch), forced[self._rows(len(forced))], logits=logits)
        return self._all(mine, len(batch.ids))

    def score_prefill(self, batch: TokenBatch, forced: NDArray[np.int64], *, logits: bool = False) -> Scores:
        mine = super().score_prefill(self._stream(batch), forced[self._rows(len(forced))], logits=logits)
        return self._all(mine, len(batch.ids))

    def _rows(self, count: int) -> list[int]:
        """The rows of a batch of `count` that this stream takes; one too many streams take the last row again."""
        share = -(-count // self.request.world_size)
        start = self.request.rank * share
        return [min(row, count - 1) for row in range(start, start + share)]

    def _stream(self, batch: TokenBatch) -> TokenBatch:
        rows = self._rows(len(batch.ids))
        return TokenBatch(batch.ids[rows], batch.mask[rows])

    def _together(self, mine: NDArray[Any], count: int, *, axis: int) -> NDArray[Any]:
        """What all streams made, in the order of the batch of `count` rows along `axis`."""
        if self.request.world_size == 1:
            return mine
        sent = torch.from_numpy(np.ascontiguousarray(mine.astype(np.uint8) if mine.dtype == np.bool_ else mine))
        here = sent.to(self._torch_device)
        parts = [torch.empty_like(here) for _ in range(self.request.world_size)]
        dist.all_gather(parts, here)
        whole = np.concatenate([part.cpu().numpy() for part in parts], axis=axis).astype(mine.dtype)
        return np.take(whole, range(count), axis=axis)

    def _all(self, mine: Scores, count: int) -> Scores:
        whole: dict[str, Any] = {}
        for field in fields(mine):
            part = getattr(mine, field.name)
            whole[field.name] = None if part is None else self._together(part, count, axis=1)
        return Scores(**whole)

    # Weights are in no single place.

    def weight_hash(self) -> str:
        """Of the whole model, gathered tensor by tensor: partitions may be on disk, and differ from rank to rank."""
        return digest.of_parts(self._named_bytes())

    def _named_bytes(self) -> Iterator[bytes | memoryview]:
        deepspeed = importlib.import_module("deepspeed")
        for name, parameter in self.model.named_parameters():
            with deepspeed.zero.GatheredParameters([parameter]):
                whole = parameter.detach().cpu().contiguous()
            yield f"{name} {whole.dtype} {tuple(whole.shape)}\n".encode()
            yield whole.reshape(-1).view(torch.uint8).numpy().data
        for name, buffer in self.model.named_buffers():
            yield f"{name} {buffer.dtype} {tuple(buffer.shape)}\n".encode()
            yield buffer.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data

    def details(self) -> dict[str, Json]:
        held = [parameter.ds_tensor for parameter in self.model.parameters()]
        return {
            "deepspeed": self._version,
            "zero_stage": 3,
            "streams": self.request.world_size,
            "offload": self._offload,
            "async_io": self._async_io,
            "synced_gpus": self._synced,
            "partitioned_tensors": len(held),
            "partitions_on_nvme": self._on_nvme(self.model),
            "partition_devices": sorted({str(part.device) for part in held}),
        }


def streams(engine: DeepSpeedZero, *, prompts: list[list[list[int]]], new_tokens: list[int]) -> dict[str, Json]:
    """Generate with prompts and a count of new tokens of its own in each rank; for `Generator.invoke`.

    `prompts` and `new_tokens` have one entry a rank. A stream that has ended runs passes along until the last one has.
    Answers `tokens` (rows, its own count), `wall_s`, and `tokens_per_s` of this stream.
    """
    rank = engine.request.rank
    start = time.perf_counter()
    made = HfEngine.generate(engine, TokenBatch.of(prompts[rank]), new_tokens[rank])
    wall = time.perf_counter() - start
    return {"tokens": made.tokens.tolist(), "wall_s": wall, "tokens_per_s": made.tokens.size / float(made.step_s[-1])}
