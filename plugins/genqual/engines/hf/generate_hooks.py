"""What rides inside transformers' generate loop: a clock, a recorder that forces, a callback. No model."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from genqual.engines.hf.score_recorder import ScoreRecorder


class StepClock:
    """A `streamer` that only stamps the time: the hook that generate offers without touching logits or tokens.

    `put` is given the prompt once and then each step's tokens, (rows,), already on the host. transformers' TextStreamer
    refuses batches of several rows; generate itself does not.
    """

    def __init__(self, synchronise: Callable[[], None]) -> None:
        self.stamps: list[float] = []  # time.perf_counter, one a step
        self.first: torch.Tensor | None = None  # (rows,), what the first stamp is the time of
        self._synchronise = synchronise
        self._prompt_seen = False

    def put(self, value: torch.Tensor) -> None:
        if not self._prompt_seen:
            self._prompt_seen = True
            return
        self._synchronise()
        self.stamps.append(time.perf_counter())
        if self.first is None:
            self.first = value

    def end(self) -> None:
        """Generate calls it when the loop ends."""


class ForcingProcessor:
    """A logits processor that records the logits of a step, then leaves the given token as the only choice."""

    def __init__(self, forced: NDArray[np.int64], recorder: ScoreRecorder, device: torch.device) -> None:
        self._forced = forced
        self._on_device = torch.from_numpy(np.ascontiguousarray(forced)).to(device)
        self._recorder = recorder
        self._step = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self._recorder.add(scores, self._forced[:, self._step])
        choice = self._on_device[:, self._step, None]
        self._step += 1
        return torch.full_like(scores, -torch.inf).scatter_(1, choice, 0.0)


class BetweenSteps:
    """A logits processor that runs `callback` after each forward pass and returns the scores untouched.

    The device is idle when the callback starts; the callback waits for its own work.
    """

    def __init__(self, callback: Callable[[], None], synchronise: Callable[[], None]) -> None:
        self._callback = callback
        self._synchronise = synchronise

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self._synchronise()
        self._callback()
        return scores
