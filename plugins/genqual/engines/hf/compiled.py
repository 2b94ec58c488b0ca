"""The `transformers-compiled` engine: static cache, decode step through torch.compile, arranged by generate itself."""

from __future__ import annotations

from genqual.engines.hf.eager import TransformersEager


class TransformersCompiled(TransformersEager):
    """`transformers` with `graphs=compile` unless told otherwise; `genqual engines` says what a graph takes besides."""

    name = "transformers-compiled"
    default_graphs = "compile"
