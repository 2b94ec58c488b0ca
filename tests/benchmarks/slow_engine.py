"""A transformers engine that is slower on purpose, by real work in its decode steps. In ranks only.

`GENQUAL_TEST_SLOWDOWN` 0.05 adds 5 % of a step's time; with `GENQUAL_TEST_SLOW_FROZEN` the frozen step is slowed alike,
as a slower driver would slow it.
"""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np
import torch
from torch.nn.functional import linear

from genqual.engines.base import Loaded, LoadRequest, TokenBatch
from genqual.engines.transformers_eager import TransformersEager
from genqual.performance import frozen

_WEIGHT = torch.ones(512, 512, dtype=torch.bfloat16)


def work(units: int) -> None:
    for _ in range(units):
        linear(_WEIGHT[:8], _WEIGHT)


def low(values: Any) -> float:
    """The lower decile: what a step takes that nobody interrupted, or a busy host would set the slowdown."""
    return float(np.quantile(values, 0.1))


def seconds_of(call: Any, *, times: int) -> float:
    spans = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        spans.append(time.perf_counter() - start)
    return low(spans)


class SlowEager(TransformersEager):
    """As its base, and slower from the moment it is loaded."""

    def load(self, request: LoadRequest) -> Loaded:
        loaded = super().load(request)
        share = float(os.environ["GENQUAL_TEST_SLOWDOWN"])
        unit = seconds_of(lambda: work(16), times=25) / 16
        batch = TokenBatch.of([[7] * 128])
        step = low(np.diff(np.concatenate([self.generate(batch, 16).step_s for _ in range(5)]).reshape(5, 16)).ravel())
        extra = round(share * step / unit)

        def slow(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            if kwargs["input_ids"].shape[1] == 1:  # a decode step, no prefill
                work(extra)

        self.model.register_forward_hook(slow, with_kwargs=True)
        if os.environ.get("GENQUAL_TEST_SLOW_FROZEN"):
            self._slow_frozen(share, unit)
        return loaded

    def _slow_frozen(self, share: float, unit: float) -> None:
        honest = frozen.Step.__call__
        extra: dict[int, int] = {}

        def slow(step: Any) -> float:
            if id(step) not in extra:
                extra[id(step)] = round(share * seconds_of(lambda: honest(step), times=25) / unit)
            work(extra[id(step)])
            return honest(step)

        frozen.Step.__call__ = slow  # type: ignore[method-assign, assignment]
