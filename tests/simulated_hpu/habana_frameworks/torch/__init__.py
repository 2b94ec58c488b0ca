"""A stand-in for Habana's PyTorch bridge, as far as genqual and optimum-habana 1.21.2 call it."""

from habana_frameworks.torch import core, hpu

__all__ = ["core", "hpu"]
