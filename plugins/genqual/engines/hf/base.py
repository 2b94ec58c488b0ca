"""The part that all transformers engines share: every token goes through the model's real `generate`. No sharding."""

from __future__ import annotations

from genqual.engines.hf.timed_import import IMPORT_S, Phases

import inspect
import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar, Final

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import GenerationConfig, LogitsProcessorList

from genqual.cases import Json
from genqual.dtypes import DTYPES
from genqual.engines.base import Generated, Loaded, LoadRequest, Memory, Scores, TokenBatch
from genqual.engines.hf import caches, evidence, preflight, runtime
from genqual.engines.hf.generate_hooks import BetweenSteps, ForcingProcessor, StepClock
from genqual.engines.hf.score_recorder import ScoreRecorder, on_host
from genqual.models.attention_shape import POSITIONS, positions_of

WARM_TOKENS: Final = 4


class HfEngine:
    """Runs an HF causal language model by its own greedy `generate`; a subclass says how the model is made.

    One object serves one load. `model` is this rank's module, the one whose forward runs.
    """

    name: ClassVar[str]

    model: Any
    request: LoadRequest
    device: str = "cpu"
    first_logits: NDArray[np.float64] | None = None
    """What the pass that loading ends with said of its last token, (1, vocabulary): the first answer of the process."""
    _cache: Any = None  # of one row and a few tokens: how much of what this model keeps
    _state_bytes: int = 0
    _lacks: Mapping[str, str] = MappingProxyType({})

    def __init__(self) -> None:
        self._callback: Callable[[], None] | None = None
        self._imports_bytes = 0
        self._told: tuple[Any, dict[str, Json]] | None = None  # config and arguments of the last generate

    # What a subclass decides.

    def make(self, request: LoadRequest, phases: Phases) -> Any:
        """This rank's model, on its device. Ends its own phases: read, shard, compile."""
        raise NotImplementedError

    def share(self, request: LoadRequest) -> float:
        """How much of the whole model this rank holds in host memory while it loads, of 1."""
        return 1.0

    def run_generate(self, **inputs: Any) -> Any:
        """Call upstream's generate."""
        return self.model.generate(**inputs)

    def decode_options(self, rows: int, length: int) -> dict[str, Any]:
        """Extra arguments of generate for `rows` rows that will hold at most `length` tokens at the end."""
        return {}

    def after_decode(self, steps: int) -> None:
        """Check, after a generate of `steps` tokens, that what was meant to run did run."""

    def model_changed(self) -> None:
        """Somebody altered the model in place (a fault, its undoing): forget what was derived from it."""

    def drop_buffers(self) -> None:
        """Memory ran out: let go of what can be made again."""

    def details(self) -> dict[str, Json]:
        """What this engine adds to `inspect`."""
        return {}

    # The contract.

    @runtime.mapping_oom
    def load(self, request: LoadRequest) -> Loaded:
        start = time.perf_counter()
        phases = Phases(partial(runtime.held_bytes, request.device))
        self.request, self.device = request, request.device
        runtime.setup(request)
        self._torch_device = runtime.place(request)
        phases.end("import")
        self._preflight = preflight.check(request, self.name, self.share(request))
        self.model = self.make(request, phases)
        self._imports_bytes = phases.imports_bytes
        self.model.eval()
        self.model.requires_grad_(False)
        # In transformers 5 a None of the caller is filled from here: a checkpoint's sampling and stop ids must not be.
        self.model.generation_config = GenerationConfig(pad_token_id=0)
        self._parameters = inspect.signature(self.model.forward).parameters
        kv_bytes = self._warm()
        runtime.synchronise(self.device)
        phases.end("warm")
        phases["import"] += IMPORT_S
        load_s = time.perf_counter() - start + IMPORT_S
        config = self.model.config.get_text_config()
        return Loaded(
            load_s=load_s,
            weight_bytes=evidence.weight_bytes(self.model),
            parameters=evidence.parameters(self.model),
            vocabulary=int(config.vocab_size),
            max_positions=positions_of({name: getattr(config, name, None) for name in ("model_type", *POSITIONS)}),
            kv_bytes_per_token=kv_bytes,
            state_bytes=self._state_bytes,
            weight_hash=self.weight_hash(),
            phases=dict(phases),
            lacks=dict(self._lacks),
        )

    @runtime.mapping_oom
    def generate(self, batch: TokenBatch, new_tokens: int) -> Generated:
        processors = LogitsProcessorList()
        if self._callback is not None:
            processors.append(BetweenSteps(self._callback, self._synchronise))
        clock = StepClock(self._synchronise)
        self._synchronise()
        cpu, start = time.process_time(), time.perf_counter()
        tokens = self._decode(batch, new_tokens, logits_processor=processors, streamer=clock)
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
        if len(clock.stamps) != new_tokens:
            raise RuntimeError(f"generate ran {len(clock.stamps)} steps, not {new_tokens}")
        return Generated(
            tokens=tokens,
            step_s=np.array(clock.stamps) - start,
            wall_s=wall,
            cpu_s=cpu,
            streamed=None if clock.first is None else clock.first.cpu().numpy().astype(np.int64),
        )

    @runtime.mapping_oom
    def score(self, batch: TokenBatch, forced: NDArray[np.int64], *, logits: bool = False) -> Scores:
        forced = _checked(batch, forced)
        recorder = ScoreRecorder(keep_logits=logits)
        processors = LogitsProcessorList([ForcingProcessor(forced, recorder, self._torch_device)])
        tokens = self._decode(batch, forced.shape[1], logits_processor=processors)
        if not np.array_equal(tokens, forced):
            raise RuntimeError("generate chose other tokens than the only ones allowed: another processor interfered")
        return recorder.scores()

    @runtime.mapping_oom
    def score_prefill(self, batch: TokenBatch, forced: NDArray[np.int64], *, logits: bool = False) -> Scores:
        forced = _checked(batch, forced)
        steps = forced.shape[1]
        fed = forced[:, :-1]  # the last forced token is scored, never read
        ids = np.concatenate([batch.ids, fed], axis=1)
        mask = np.concatenate([batch.mask, np.ones_like(fed)], axis=1)
        inputs: dict[str, Any] = {"input_ids": self._tensor(ids), "attention_mask": self._tensor(mask)}
        if "position_ids" in self._parameters:  # as generate makes them; BLOOM reads its positions off the mask
            inputs["position_ids"] = self._tensor(np.maximum(mask.cumsum(axis=1) - 1, 0))
        if "logits_to_keep" in self._parameters:
            inputs["logits_to_keep"] = steps
        with torch.no_grad():
            out = self.model(**inputs, use_cache=False, return_dict=True).logits[:, -steps:]
        recorder = ScoreRecorder(keep_logits=logits)
        for step in range(steps):
            recorder.add(out[:, step], forced[:, step])
        return recorder.scores()

    def between_steps(self, callback: Callable[[], None] | None) -> None:
        self._callback = callback

    def memory(self, *, reset: bool = False, trim: bool = False) -> Memory:
        return runtime.read_memory(self.device, reset=reset, trim=trim, imports=self._imports_bytes)

    def weight_hash(self) -> str:
        return evidence.weight_hash(self.model)

    def inspect(self) -> dict[str, Json]:
        found = evidence.of_torch(self._torch_device) | evidence.of_model(self.model, self._torch_device)
        if self.request.dtype in DTYPES:
            found |= evidence.dtype_rule(self.model, runtime.dtype_of(self.request.dtype))
        found |= {"engine": self.name, "cache": self._cache_class, "generate": self._arguments()}
        return found | {"preflight": self._preflight} | self.details()

    # Inside.

    def _arguments(self) -> dict[str, Json]:
        """What the last generate was told, word for word; objects by the name of their class."""
        if self._told is None:
            return {}
        config, others = self._told
        told: dict[str, Json] = json.loads(json.dumps(config.to_diff_dict(), default=str))
        told.pop("transformers_version", None)
        return told | others

    def _synchronise(self) -> None:
        runtime.synchronise(self.device)

    def _tensor(self, array: NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._torch_device)

    def _decode(self, batch: TokenBatch, steps: int, **hooks: Any) -> NDArray[np.int64]:
        """Run the one decode loop there is; (rows, steps) tokens. Exactly `steps` of them: there is no stop id."""
        rows, length = batch.ids.shape
        options = self.decode_options(rows, length + steps)
        config = GenerationConfig(
            max_new_tokens=steps,
            do_sample=False,
            num_beams=1,
            use_cache=True,
            pad_token_id=0,
            **of_config(options),
        )
        self._told = config, {name: type(value).__name__ for name, value in options.items()}
        with torch.no_grad():
            out = self.run_generate(
                input_ids=self._tensor(batch.ids),
                attention_mask=self._tensor(batch.mask),
                generation_config=config,
                **options,
                **hooks,
            )
        self.after_decode(steps)
        tokens = out[:, length:].cpu().numpy()
        if tokens.shape != (rows, steps):
            raise RuntimeError(
                f"generate gave {tokens.shape[0]} rows of {tokens.shape[1]} tokens, not {rows} of {steps}"
            )
        return np.asarray(tokens, dtype=np.int64)

    def warm_pass(self) -> Any:
        """The small pass that loading ends with; the same request each time."""
        tokens = np.ones((1, WARM_TOKENS), dtype=np.int64)
        with torch.no_grad():
            return self.model(input_ids=self._tensor(tokens), use_cache=True, return_dict=True)

    def _warm(self) -> int:
        """One small pass: pages the weights in, proves that the model runs, and measures a token's cache (bytes).

        What it said is kept: a fault that lives in the first pass of a process only would be eaten here.
        """
        out = self.warm_pass()
        self.first_logits = on_host(out.logits[:, -1])
        return self._measured(caches.of_output(out))

    def _measured(self, cache: Any) -> int:
        """Note what the model keeps on its own account; bytes of a token in it.

        It may keep keys and values, a state of fixed size, or both; `_lacks` says what that leaves out.
        """
        kind = self.model.config.get_text_config().model_type
        self._cache, self._cache_class, self._state_bytes = cache, type(cache).__name__, caches.state_bytes(cache)
        reasons = {"passes": caches.uncontinuable(self.model, kind, cache), "crop": caches.uncroppable(kind, cache)}
        self._lacks = {ability: reason for ability, reason in reasons.items() if reason is not None}
        return caches.cache_bytes(cache) // WARM_TOKENS


def of_config(options: dict[str, Any]) -> dict[str, Any]:
    """Take out of `options`, which `decode_options` gave, what generate reads in its GenerationConfig."""
    return {name: options.pop(name) for name in ("compile_config", "disable_compile") if name in options}


def _checked(batch: TokenBatch, forced: NDArray[np.int64]) -> NDArray[np.int64]:
    if forced.ndim != 2 or forced.shape[0] != batch.ids.shape[0] or forced.shape[1] < 1:
        raise ValueError(
            f"forced {forced.shape}: must be (rows, steps), with {batch.ids.shape[0]} rows and a step at least"
        )
    return np.asarray(forced, dtype=np.int64)
