"""The `transformers-compiled` engine: static cache, decode step through torch.compile, arranged by generate itself."""

from __future__ import annotations

from typing import Any, Final

from genqual.engines import compiling
from genqual.engines.base import LoadRequest
from genqual.engines.clocked import Phases
from genqual.engines.hf import HfEngine
from genqual.engines.reading import read
from genqual.errors import BadInput, Unsupported
from genqual.spec import Json

BUCKET: Final = 128  # cache lengths are multiples of it, so that near lengths share one graph


class TransformersCompiled(HfEngine):
    """Options: `attn_implementation`; `compile_mode` (Inductor's, "default"); `cache_bucket` (tokens, 128).

    The prefill runs eager, as upstream does it; each later token runs the compiled callable, in `generate` and `score`
    alike, and a step that did not is an error.
    """

    name = "transformers-compiled"

    def __init__(self) -> None:
        super().__init__()
        self._counts = compiling.Counts()
        self._hits_before = 0
        self._cache: tuple[tuple[int, int], Any] | None = None

    def make(self, request: LoadRequest, phases: Phases) -> Any:
        compiler = compiling.require_compiler()
        compiling.prepare(request.device)
        bucket = request.options.get("cache_bucket", BUCKET)
        if not isinstance(bucket, int) or bucket < 1:
            raise BadInput(f"cache_bucket {bucket!r}: must be a number of tokens")
        mode = str(request.options.get("compile_mode", "default"))
        self._bucket, self._mode, self._compiler = bucket, mode, compiler
        self._compile = compiling.configuration(mode, self._counts)
        phases.end("import")
        model = read(request)
        if not getattr(model, "_can_compile_fullgraph", False):
            raise Unsupported(f"transformers says that {type(model).__name__} cannot be compiled as one graph")
        phases.end("read")
        model.to(self._torch_device)
        phases.end("shard")
        return model

    def decode_options(self, rows: int, length: int) -> dict[str, Any]:
        self._hits_before = self._counts.hits
        return {"compile_config": self._compile, "past_key_values": self._static_cache(rows, length)}

    def after_decode(self, steps: int) -> None:
        ran = self._counts.hits - self._hits_before
        if ran != steps - 1:
            raise RuntimeError(f"the compiled step ran {ran} times in a decode of {steps} tokens, not {steps - 1}")

    def model_changed(self) -> None:
        compiling.forget()
        self.drop_buffers()

    def drop_buffers(self) -> None:
        self._cache = None

    def details(self) -> dict[str, Json]:
        return {
            "cache": "StaticCache",
            "cache_length": self._cache[0][1] if self._cache else None,
            "compile_mode": self._mode,
            "compiler": self._compiler,
            "freezing": compiling.freezing(),
            "compilations": self._counts.compilations,
            "graph_hits": self._counts.hits,
        }

    def _static_cache(self, rows: int, length: int) -> Any:
        """A cache for `rows` of up to `length` tokens; the last one again where it fits, at the same addresses."""
        key = (rows, -(-length // self._bucket) * self._bucket)
        if self._cache is not None and self._cache[0] == key:
            self._cache[1].reset()
            return self._cache[1]
        self._cache = None  # let the old one go before the new one is made
        self._cache = (key, compiling.static_cache(self.model, rows, key[1], self._keys))
        return self._cache[1]
