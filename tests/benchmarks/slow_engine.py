"""A transformers engine that is slower on purpose, by real work in its decode steps. In ranks only.

`GENQUAL_TEST_SLOWDOWN` 0.05 adds 5 % of a step's time, as a user would measure it: the amount of work is found by
trying, and kept in the file that `GENQUAL_TEST_SLOW_WORK` names, so that every launch of a benchmark does the same.
With `GENQUAL_TEST_SLOW_FROZEN` the node is slower: each decode step and each reference step is followed by work
until it has taken so much longer than it did, the fast ones as well as those that the host's other guests slowed.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import linear

from genqual.engines.base import Loaded, LoadRequest, TokenBatch
from genqual.engines.hf.eager import TransformersEager
from genqual.gate import frozen

_ROWS = 16  # of a unit: 64 KiB
_WEIGHT = torch.ones(1 << 14, 1024)
_at = 0
_PROMPT = TokenBatch.of([[7] * 128])


def work(units: int) -> None:
    """As a decode step works: weights that come from memory are read once, for one row.

    Products that stay in a cache slow down differently when another guest of the host is busy: a baseline of an engine
    that did 11 % more of those varied by 1.9 %.
    """
    global _at
    while units > 0:
        now = min(units, (len(_WEIGHT) - _at) // _ROWS)
        linear(_WEIGHT[:1], _WEIGHT[_at : _at + now * _ROWS])
        _at, units = (_at + now * _ROWS) % len(_WEIGHT), units - now


def work_until(end: float) -> None:
    """Work until the clock says `end`: by a unit, some 10 microseconds, too long at most."""
    while time.perf_counter() < end:
        work(1)


class SlowEager(TransformersEager):
    """As its base, and slower from the moment it is loaded."""

    _extra = 0
    _spans: list[float]

    def load(self, request: LoadRequest) -> Loaded:
        loaded = super().load(request)
        share = float(os.environ["GENQUAL_TEST_SLOWDOWN"])
        if os.environ.get("GENQUAL_TEST_SLOW_FROZEN"):
            self._slow_node(share)
            return loaded

        def slow(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            if kwargs["input_ids"].shape[1] == 1:  # a decode step, no prefill
                start = time.perf_counter()
                work(self._extra)
                self._spans.append(time.perf_counter() - start)

        self._spans = []
        self.model.register_forward_hook(slow, with_kwargs=True)
        self._extra = self._kept(share)
        return loaded

    def _kept(self, share: float) -> int:
        place = os.environ.get("GENQUAL_TEST_SLOW_WORK")
        name = f"{self.request.model.name}-{self.request.dtype}-{share:.4f}"
        file = Path(f"{place}-{name}") if place else None
        if file is not None and file.is_file():
            return int(file.read_text())
        units = self._tried(share) if share else 0
        if file is not None:
            file.write_text(f"{units}\n")
        return units

    def _tried(self, share: float) -> int:
        """The work that makes a decode step longer by `share`: what it takes of the very steps that it is done in."""
        units = 16
        for _ in range(3):
            self._extra, gains = units, []
            for _ in range(4):
                self._spans.clear()
                steps = np.diff(self.generate(_PROMPT, 32).step_s)
                spans = np.array(self._spans)
                gains.append(spans / (steps - spans))
            units = max(1, round(units * share / float(np.median(gains))))
        return units

    def _slow_node(self, share: float) -> None:
        """A decode step is longer than the forward pass in it, and `share` is of the step: the pass gets more."""
        began, passes, fault_free = [0.0], [], frozen.Step.__call__

        def begin(module: Any, args: Any) -> None:
            began[0] = time.perf_counter()

        def end(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            if kwargs["input_ids"].shape[1] == 1:
                now = time.perf_counter()
                passes.append(now - began[0])
                work_until(now + more * passes[-1])

        more = 0.0
        self.model.register_forward_pre_hook(begin)
        self.model.register_forward_hook(end, with_kwargs=True)
        steps = np.median([np.diff(self.generate(_PROMPT, 32).step_s) for _ in range(4)])
        more = share * float(steps) / float(np.median(passes))

        def slow(step: Any) -> float:
            start = time.perf_counter()
            mean = fault_free(step)
            now = time.perf_counter()
            work_until(now + share * (now - start))
            return mean

        frozen.Step.__call__ = slow  # type: ignore[method-assign, assignment]
