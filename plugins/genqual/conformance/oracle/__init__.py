"""What a model's logits are, by our own implementation in float64 NumPy: shared parts, one file an architecture."""

from __future__ import annotations

from genqual.moved import forward

# Until genqual 0.3: what was the module `genqual.conformance.oracle` is its registry now.
__getattr__ = forward("genqual.conformance.oracle", "genqual.conformance.oracle.registry", modules_first=True)
