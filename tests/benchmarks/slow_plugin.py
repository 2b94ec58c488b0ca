"""A pytest plugin that puts `slow_engine` in the place of the transformers engine, under its name."""

from __future__ import annotations

from dataclasses import replace

from genqual.engines.registry import engines
from tests.benchmarks.slowdown import SLOW

engines()["transformers"] = replace(engines()["transformers"], implementation=SLOW)
