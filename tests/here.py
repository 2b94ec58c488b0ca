"""Where these tests run: the device of this host's own processor. Every engine runs on it, a Xeon or another."""

from __future__ import annotations

from typing import Final

from genqual.devices.registry import processor

CPU: Final = processor().name
"""`xeon` on an Intel Xeon, `cpu` on any other processor."""

NATIVE: Final = processor().native_dtype
"""What the embedded profile times here: bf16, or fp32 on a processor without instructions for it."""
