"""Engines on Hugging Face transformers and what they share. In ranks only."""

from __future__ import annotations

from genqual.moved import forward

# Until genqual 0.3: what was the module `genqual.engines.hf` is its base now. That one imports torch.
__getattr__ = forward("genqual.engines.hf", "genqual.engines.hf.base", modules_first=True)
