"""Where these tests run: the device of this host's own processor. Every engine runs on it, a Xeon or another."""

from __future__ import annotations

from typing import Final

from genqual.devices.registry import processor

CPU: Final = processor().name
"""`xeon` on an Intel Xeon, `cpu` on any other processor."""
