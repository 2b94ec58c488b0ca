"""What a token's pass reads of a model: its active experts, and what it keeps of a text. Pure: the standard library.

Of a dense model with full attention both are as loading saw them: all weights, and keys that grow with each token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Routed:
    """A mixture: of `experts`, each of `weights` numbers, a token reads `chosen`."""

    experts: int
    chosen: int
    weights: int

    def idle(self, tokens: int) -> float:
        """Weights that a pass of `tokens` single tokens does not read, were each token's choice random.

        For one token it is exact. Which experts several tokens share is the text's: routers that prefer some read less.
        """
        missed = 1.0 - self.chosen / self.experts
        return self.weights * self.experts * missed**tokens


@dataclass(frozen=True, slots=True)
class ModelReads:
    """`weights` in all, the `mixtures` among them, and `kept(length)` numbers that layers keep of a text.

    `element_bytes` of one such number. Without `kept`, a text keeps what loading measured for each of its tokens.
    """

    weights: int = 0
    mixtures: tuple[Routed, ...] = ()
    kept: Callable[[int], int] | None = None
    element_bytes: int = 0

    def active_share(self, tokens: int) -> float:
        """Of all weights, those that a pass of `tokens` single tokens reads."""
        idle = sum(mixture.idle(tokens) for mixture in self.mixtures)
        return 1.0 - idle / self.weights if idle else 1.0

    def kv_bytes(self, lengths: range, measured: int) -> float:
        """Bytes of keys and values that a row reads, the mean over steps at these `lengths`.

        `measured` bytes a token are what loading saw on this rank. Windows keep their last tokens only, and of a latent
        cache the latent counts, whatever the engine keeps in its place.
        """
        mean = sum(lengths) / len(lengths)
        if self.kept is None:
            return mean * measured
        fixed = self.kept(0)
        growth = self.kept(1) - fixed
        if not growth:
            return mean * measured
        tokens = sum(self.kept(length) - fixed for length in lengths) / len(lengths) / growth
        return tokens * min(measured, growth * self.element_bytes)

    @property
    def about(self) -> str:
        """For a metric's note: empty where nothing is left out."""
        if not self.mixtures:
            return ""
        one = self.mixtures[0]
        return f"active weights: of {one.experts} experts a token reads {one.chosen}"


ALL: ModelReads = ModelReads()
"""Every weight, and every token's keys."""
