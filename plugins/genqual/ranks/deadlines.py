"""How long a call may take before its group counts as hung. Pure: the standard library only."""

from __future__ import annotations

from dataclasses import dataclass, fields

from genqual.errors import BadInput


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds. Generous: a deadline tells a hang from an answer, it never judges speed; `scale` stretches them all.

    `first_s` is added to the first call of a kind on a fresh group (graph capture, compilation); `load_s` includes
    kernels that are built on first use.
    """

    start_s: float = 120.0
    load_s: float = 600.0
    base_s: float = 30.0
    first_s: float = 180.0
    step_s: float = 2.0  # a decode step
    token_s: float = 0.02  # a prompt token of one row, in prefill
    invoke_s: float = 300.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        for slot in fields(self):
            if not getattr(self, slot.name) > 0:
                raise BadInput(f"deadline {slot.name} {getattr(self, slot.name)}: must be more than 0 seconds")

    def start(self) -> float:
        """From the launcher's start until every rank has reported."""
        return self.start_s * self.scale

    def call(self, method: str, *, rows: int = 0, length: int = 0, steps: int = 0, first: bool = False) -> float:
        """For `method` on a batch of `rows` x `length` prompt tokens and `steps` decode steps."""
        if method == "load":
            return self.load_s * self.scale
        if method == "invoke":
            return self.invoke_s * self.scale
        work = rows * length * self.token_s + steps * self.step_s
        return (self.base_s + work + (self.first_s if first else 0.0)) * self.scale
