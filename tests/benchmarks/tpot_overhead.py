"""Is the TPOT that genqual publishes the model's own? Ours against the same loop without any hook, alternated.

Ours: the `transformers` engine's generate, each step stamped by a streamer. Against it, in the same process on the same
loaded model and prompt:

  generate   transformers' generate without a streamer, timed from outside: (t(n tokens) - t(1 token)) / (n - 1)
  bare loop  forward, argmax, cache, written by hand, timed by two stamps: after the first token and after the last

The first shows what stamping costs and must lie within the tolerance; the second also shows what generate's own loop
costs, which every user of transformers pays, and is reported only. Exit status 0: the first ratio's whole interval lies
within the tolerance. 1: it does not, or cannot be told on this host.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from genqual.engines.base import LoadRequest, TokenBatch
from genqual.models import embedded
from genqual.models.spec import ModelSpec
from tests.benchmarks.ratios import alternate, plain, save, summarise, table


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        "python -m tests.benchmarks.tpot_overhead", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    made.add_argument("--model", choices=embedded.NAMES, default="llama-30m")
    made.add_argument("--dtype", choices=("fp32", "bf16"), default="bf16")
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--rows", type=int, default=1)
    made.add_argument("--input-length", type=int, default=32)
    made.add_argument("--new-tokens", type=int, default=64)
    made.add_argument("--rounds", type=int, default=40, help="of each alternation; at least 8 (default: %(default)s)")
    made.add_argument("--tolerance", type=float, default=0.01, help="(default: %(default)s)")
    made.add_argument("--json", type=Path, help="write the result here as well")
    return made


class Arms:
    """The three ways to time one token, on one loaded model."""

    def __init__(self, options: argparse.Namespace) -> None:
        from genqual.engines.transformers_eager import TransformersEager

        config = embedded.config(options.model)
        model = ModelSpec(options.model, "embedded", options.model, str(config["model_type"]))
        request = LoadRequest(model, options.dtype, "cpu", 0, 1, 0, 1, options.threads)
        self.engine = TransformersEager()
        self.engine.load(request)
        ids = np.random.default_rng(0).integers(3, 256, (options.rows, options.input_length))
        self.batch = TokenBatch(ids.astype(np.int64), np.ones_like(ids, dtype=np.int64))
        self.new = int(options.new_tokens)
        self.tokens: dict[str, list[list[int]]] = {}

    def ours(self) -> float:
        run = self.engine.generate(self.batch, self.new)
        self.tokens["ours"] = run.tokens.tolist()
        return float(run.step_s[-1] - run.step_s[0]) / (self.new - 1)

    def generate(self) -> float:
        return (self._generate(self.new) - self._generate(1)) / (self.new - 1)

    def _generate(self, new: int) -> float:
        import torch

        ids, mask = torch.from_numpy(self.batch.ids), torch.from_numpy(self.batch.mask)
        with torch.no_grad():
            start = time.perf_counter()
            out = self.engine.model.generate(
                ids, attention_mask=mask, max_new_tokens=new, do_sample=False, num_beams=1, use_cache=True
            )
            took = time.perf_counter() - start
        if new > 1:
            self.tokens["generate"] = out[:, ids.shape[1] :].tolist()
        return took

    def bare_loop(self) -> float:
        import torch

        with torch.no_grad():
            fed = torch.from_numpy(self.batch.ids)
            cache: Any = None
            chosen = []
            first = 0.0
            for step in range(self.new):
                out = self.engine.model(input_ids=fed, past_key_values=cache, use_cache=True)
                cache, fed = out.past_key_values, out.logits[:, -1:].argmax(dim=-1)
                chosen.append(fed)
                if step == 0:
                    first = time.perf_counter()
            last = time.perf_counter()
        self.tokens["bare loop"] = torch.cat(chosen, dim=1).tolist()
        return (last - first) / (self.new - 1)

    def check(self) -> None:
        """All three must have made the same tokens, or they did not do the same work."""
        for name, tokens in self.tokens.items():
            if tokens != self.tokens["ours"]:
                raise SystemExit(f"{name} made other tokens than ours: the times cannot be compared")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run both alternations, print the table, return the exit status."""
    options = parser().parse_args(arguments)
    if options.new_tokens < 2 or options.rounds < 8:
        parser().error("--new-tokens must be at least 2 (one token has no TPOT), --rounds at least 8")
    arms = Arms(options)
    others = {"generate": arms.generate, "bare loop": arms.bare_loop}
    for warm in (arms.ours, *others.values()):
        warm()
    arms.check()
    ratios = {name: summarise(alternate(arms.ours, other, options.rounds)) for name, other in others.items()}
    arms.check()
    held = ratios["generate"].within(options.tolerance)
    print(
        f"{options.model} {options.dtype}, threads {options.threads}, tokens {options.new_tokens}, rows {options.rows}"
    )
    rows = [[f"our TPOT / {name}", str(ratio), f"{ratio.count} alternated pairs"] for name, ratio in ratios.items()]
    print(table([["ratio", "median [99 % interval]", "of"], *rows]))
    print(f"within {options.tolerance:.1%} of generate without a hook: {'yes' if held else 'not shown'}")
    settings = {key: value for key, value in vars(options).items() if key != "json"}
    save(options.json, {"settings": settings, "held": held} | {name: plain(ratio) for name, ratio in ratios.items()})
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
