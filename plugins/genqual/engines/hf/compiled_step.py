"""Decode steps over a static cache: eager, or compiled by torch.compile. In ranks only."""

from __future__ import annotations

import genqual.engines.hf.timed_import  # noqa: F401  `compiling` imports torch, and this must come before it

import inspect
from typing import Any, Final

from genqual.cases import Json
from genqual.engines.base import LoadRequest
from genqual.engines.hf import caches, compiling
from genqual.errors import BadInput, Unsupported

BUCKET: Final = 128  # cache lengths are multiples of it, so that near lengths share one graph


class StaticStep:
    """Eager operators over a static cache: what a graph is made from, and what it must compute."""

    kind = "static"
    warmed: tuple[int, ...] = ()

    def __init__(self, request: LoadRequest) -> None:
        self._cache: tuple[tuple[int, int], Any] | None = None
        bucket = request.options.get("cache_bucket", BUCKET)
        if not isinstance(bucket, int) or bucket < 1:
            raise BadInput(f"cache_bucket {bucket!r}: must be a number of tokens")
        self._bucket = bucket

    def check(self, model: Any) -> None:
        """Any model may be run."""

    def wrap(self, model: Any) -> Any:
        return model

    def decode_options(self, model: Any, rows: int, length: int, like: Any) -> dict[str, Any]:
        # generate would compile on its own accord on a GPU.
        return {"disable_compile": True, **self._static_cache(model, rows, length, like)}

    def after_decode(self, steps: int) -> None:
        """Nothing was promised."""

    def forget(self) -> None:
        self.drop_buffers()

    def drop_buffers(self) -> None:
        self._cache = None

    def details(self) -> dict[str, Json]:
        return {
            "graphs": self.kind,
            "cache": "StaticCache",
            "cache_length": self._cache[0][1] if self._cache else None,
        }

    def _static_cache(self, model: Any, rows: int, length: int, like: Any) -> dict[str, Any]:
        """A cache for `rows` of up to `length` tokens; the last one again where it fits, at the same addresses.

        By the name that the model's forward has for it.
        """
        key = (rows, -(-length // self._bucket) * self._bucket)
        if self._cache is not None and self._cache[0] == key:
            self._cache[1].reset()
        else:
            self._cache = None  # let the old one go before the new one is made
            self._cache = (key, compiling.static_cache(model, rows, key[1], like))
        return {caches.argument(inspect.signature(model.forward).parameters): self._cache[1]}


class CompiledStep(StaticStep):
    """The decode step compiled by Inductor; for `cuda` in its mode that records CUDA graphs.

    The prefill runs eager, as upstream does it; each later token runs the compiled callable, in `generate` and `score`
    alike, and a step that did not is an error.
    """

    def __init__(self, request: LoadRequest, kind: str) -> None:
        self.kind = kind
        self._counts = compiling.Counts()
        self._hits_before = 0
        self._compiler = compiling.require_compiler()
        compiling.prepare(request.device)
        super().__init__(request)
        self._mode = str(request.options.get("compile_mode", "reduce-overhead" if kind == "cuda" else "default"))
        self._cpp_wrapper = request.options.get("cpp_wrapper", False)
        if not isinstance(self._cpp_wrapper, bool) or (self._cpp_wrapper and kind == "cuda"):
            raise BadInput(f"cpp_wrapper {self._cpp_wrapper!r}: true or false, and not with CUDA graphs")
        self._dynamic = request.options.get("dynamic", False)
        if not isinstance(self._dynamic, bool) or (self._dynamic and kind == "cuda"):
            raise BadInput(f"dynamic {self._dynamic!r}: true or false, and not with CUDA graphs, which have one shape")
        # A graph of any shape is made for the shape that it meets first: the same one in every process, or the bits of
        # an answer would depend on what was asked before. Of one row torch always makes another.
        self.warmed = (2, 1) if self._dynamic else ()
        self._compile = compiling.configuration(
            self._mode, self._counts, cpp_wrapper=self._cpp_wrapper, dynamic=self._dynamic
        )

    def check(self, model: Any) -> None:
        """Only what transformers itself would compile as one graph."""
        if not getattr(model, "_can_compile_fullgraph", False):
            raise Unsupported(f"transformers says that {type(model).__name__} cannot be compiled as one graph")

    def decode_options(self, model: Any, rows: int, length: int, like: Any) -> dict[str, Any]:
        self._hits_before = self._counts.hits
        return {"compile_config": self._compile, **self._static_cache(model, rows, length, like)}

    def after_decode(self, steps: int) -> None:
        ran = self._counts.hits - self._hits_before
        if ran != steps - 1:
            raise RuntimeError(f"the compiled step ran {ran} times in a decode of {steps} tokens, not {steps - 1}")

    def forget(self) -> None:
        compiling.forget()
        super().forget()

    def details(self) -> dict[str, Json]:
        return super().details() | {
            "compile_mode": self._mode,
            "cpp_wrapper": self._cpp_wrapper,
            "dynamic": self._dynamic,
            "compiler": self._compiler,
            "freezing": compiling.freezing(),
            "compilations": self._counts.compilations,
            "graph_hits": self._counts.hits,
        }
