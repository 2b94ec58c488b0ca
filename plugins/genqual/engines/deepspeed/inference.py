"""The `deepspeed-inference` engine: DeepSpeed's AutoTP over the ranks. Kernel injection is refused."""

from __future__ import annotations

from genqual.engines.hf.timed_import import Phases

import contextlib
import importlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import torch

from genqual.cases import Json
from genqual.engines.base import LoadRequest
from genqual.engines.deepspeed import prebuild
from genqual.engines.hf.base import HfEngine
from genqual.engines.hf.from_pretrained import check_heads, empty, read
from genqual.engines.hf.runtime import BACKENDS, dtype_of
from genqual.errors import BadInput, Unsupported
from genqual.models.load import converted

LOADS: Final = ("unsharded", "meta", "presharded")
NO_SHARDS: Final = (
    "load=presharded: DeepSpeed writes and reads shards for its injected kernels only, which exist on CUDA and refuse "
    "this transformers; and it keeps them as pickles, which genqual does not open. Use load=meta"
)

# init_inference refuses prompts beyond max_out_tokens (1024). Only its injected kernels allocate by it.
_NO_LIMIT = 1 << 20

_HAVE_SHM: Final = frozenset({"built", "cached"})  # outcomes of the build with which there is an operator


def check_dtype(request: LoadRequest) -> None:
    """Raises Unsupported where DeepSpeed, once imported, says that this device does not compute in the dtype."""
    known = importlib.import_module("deepspeed.accelerator").get_accelerator().supported_dtypes()
    if dtype_of(request.dtype) not in known:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in known)
        raise Unsupported(
            f"{request.dtype}: DeepSpeed computes in {names} on this {request.device}; take one of these, or "
            "another engine"
        )


class DeepSpeedInference(HfEngine):
    """Options: `attn_implementation`; `load`, one of LOADS; `kernel_inject` (refused with upstream's reason).

    unsharded: every rank reads the whole model and keeps its share. meta: the model starts without storage, and
    DeepSpeed reads each matrix of the checkpoint and keeps its share at once. presharded is refused: see NO_SHARDS.
    """

    name = "deepspeed-inference"

    def make(self, request: LoadRequest, phases: Phases) -> Any:
        if request.options.get("kernel_inject"):
            raise Unsupported(_why_no_injection(request))
        self._load = request.options.get("load", "unsharded")
        if self._load not in LOADS:
            raise BadInput(f"load {self._load!r}: DeepSpeed-Inference is loaded {', '.join(LOADS)}")
        if self._load == "presharded":
            raise Unsupported(NO_SHARDS)
        if self._load == "meta" and request.world_size < 2:
            raise Unsupported("load=meta: with one rank DeepSpeed injects nothing, and so reads no checkpoint either")
        check_heads(request, "unevenly")
        # How many ranks share this host. torchrun sets another name, and without it the shared memory is used before it
        # is there: SIGSEGV.
        os.environ["LOCAL_SIZE"] = str(request.local_size)
        deepspeed = prebuild.deepspeed_on_cpu() if request.device == "cpu" else importlib.import_module("deepspeed")
        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
        check_dtype(request)
        phases.end("import")
        self._shm = self._shared_memory(request)
        phases.end("compile")
        checkpoint: dict[str, Any] = {}
        if self._load == "meta":
            # DeepSpeed keeps a file's dtype, whatever it was asked for, and looks for BLOOM's names without prefix.
            bare = "transformer." if request.model.architecture == "bloom" else ""
            file = converted(request.model, dtype_of(request.dtype), without=bare)
            checkpoint = {"checkpoint": {"type": "ds_model", "checkpoints": [str(file)], "version": 1.0}}
            phases.end("convert")
            model = empty(request)
        else:
            model = read(request)
            phases.end("read")
        with quiet():
            if request.world_size > 1:
                deepspeed.init_distributed(dist_backend=BACKENDS[request.device], verbose=False)
                if self._shm in _HAVE_SHM:
                    unname_shared_memory(request.rank)
            self._deepspeed = deepspeed.init_inference(
                model,
                dtype=dtype_of(request.dtype),
                tensor_parallel={"tp_size": request.world_size},
                replace_with_kernel_inject=False,
                max_out_tokens=_NO_LIMIT,
                **checkpoint,
            )
            if request.world_size > 1 and model.config.model_type == "bloom":
                self._deepspeed.module.transformer.register_forward_pre_hook(_always_a_mask, with_kwargs=True)
        self._version = deepspeed.__version__
        phases.end("shard")
        return self._deepspeed.module

    def share(self, request: LoadRequest) -> float:
        return 1.0 / request.world_size if request.options.get("load") == "meta" else 1.0

    def run_generate(self, **inputs: Any) -> Any:
        return self._deepspeed.generate(**inputs)

    def details(self) -> dict[str, Json]:
        return {
            "deepspeed": self._version,
            "load": self._load,
            "all_reduce": "none" if self.request.world_size == 1 else self._all_reduce(),
            "shared_memory": self._shm,
        }

    def _shared_memory(self, request: LoadRequest) -> str:
        """Make sure of DeepSpeed's shared-memory operator, or that DeepSpeed does without; which, in words."""
        if request.device != "cpu":
            return "not on this device"
        if request.world_size == 1:
            outcome = "not needed by one rank"
        elif request.local_size != request.world_size:
            outcome = "not across hosts"
        else:
            outcome = prebuild.prebuild(prebuild.to_stderr)
        if outcome not in _HAVE_SHM:
            prebuild.without_shared_memory()
        return outcome

    def _all_reduce(self) -> str:
        """Which all-reduce DeepSpeed calls, by its own conditions: is the operator there, has the CPU its vectors."""
        backend = importlib.import_module("deepspeed.comm.comm").cdb
        needed = 1 if self.request.dtype == "fp32" else 2  # AVX2, AVX-512BW
        if (
            getattr(backend, "shm_comm_op", None) is None
            or getattr(backend, "shm_vector_kernel_level", needed) < needed
        ):
            return BACKENDS[self.device]
        return "DeepSpeed shared memory"


def unname_shared_memory(rank: int) -> None:
    """Take this rank's all-reduce buffer (66 MiB) out of /dev/shm, now that every rank has it mapped. Collective.

    DeepSpeed never does: each group would leave its buffers behind until the host restarts. Without a name the kernel
    frees the memory with its last process, killed or not.
    """
    torch.distributed.barrier()  # a rank has mapped all buffers before it leaves init_distributed
    where = f"{os.environ['MASTER_ADDR']}_{os.environ['MASTER_PORT']}"
    name = f"deepspeed_allreduce_buffer_{os.getuid()}_{where}_{rank}"
    Path("/dev/shm", name).unlink(missing_ok=True)  # noqa: S108  where Linux keeps the names of shared memory


def _always_a_mask(
    module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Give BLOOM the mask that transformers 5 leaves out of batches without padding.

    DeepSpeed shards ALiBi by replacing `build_alibi_tensor`, which that version calls only when there is a mask;
    without one it adds all heads' slopes to this rank's heads and stops with a shape error.
    """
    if kwargs.get("attention_mask") is None:
        ids = kwargs["input_ids"] if kwargs.get("input_ids") is not None else args[0]
        cache = kwargs.get("past_key_values")
        past = 0 if cache is None else int(cache.get_seq_length())
        kwargs["attention_mask"] = ids.new_ones((ids.shape[0], past + ids.shape[1]))
    return args, kwargs


def _why_no_injection(request: LoadRequest) -> str:
    if request.device == "cpu":
        return "DeepSpeed's kernel injection has no CPU kernels; leave kernel_inject out to run AutoTP"
    return (
        "DeepSpeed's kernel injection supports BLOOM up to transformers 4.43.4 and ends the process otherwise; genqual "
        "needs 4.55; leave kernel_inject out to run AutoTP"
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop what DeepSpeed prints to standard output: banners, with nothing that `inspect` does not say."""
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield
