"""The name of the engine that can be slowed, for those who start ranks; importing this changes nothing."""

from __future__ import annotations

from typing import Final

SLOW: Final = "tests.benchmarks.slow_engine:SlowEager"
