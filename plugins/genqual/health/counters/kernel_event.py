"""One thing that the kernel said of hardware. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KernelEvent:
    """What kind, of which entity, and the line itself. Kinds are those of `checks.toml` behind `kernel_log.`."""

    kind: str
    entity: str
    text: str
