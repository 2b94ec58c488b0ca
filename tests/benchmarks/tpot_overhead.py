"""Is the TPOT that genqual publishes the model's own? Ours against the same loop without any hook, step by step.

Ours: the `transformers` engine's generate, each step stamped by a streamer. Against it, in the same process on the same
loaded model and prompt, each of our steps alternated with one of theirs so that a busy host disturbs both alike:

  generate   transformers' generate without streamer or processor, run in a second thread that stands still, its clock
             too, just before each forward pass until its turn comes
  bare loop  forward, argmax, cache, written by hand

A round's ratio is the median over its steps. The first shows what stamping costs and must lie within the tolerance; the
second shows generate's own loop as well, which every user of transformers pays (the larger the model, the less of its
step), and is reported only. Exit status 0: the first ratio's whole interval lies within the tolerance. 1: it does not,
or cannot be told on this host. 130: interrupted; what was known by then is shown.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from genqual.engines.base import LoadRequest, TokenBatch
from genqual.models import embedded
from genqual.models.spec import ModelSpec
from tests.benchmarks.ratios import Progress, plain, save, so_far, summarise, table

LEAST: Final = 8  # ratios that hold a median at 99 %


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
    made.add_argument("--rounds", type=int, default=40, help=f"of each pair; at least {LEAST} (default: %(default)s)")
    made.add_argument("--tolerance", type=float, default=0.01, help="(default: %(default)s)")
    made.add_argument("--json", type=Path, help="write the result here, and after each round what is known")
    return made


class BareLoop:
    """Greedy decoding by hand, a step a call; the prompt is read when it is made."""

    def __init__(self, model: Any, ids: NDArray[np.int64], steps: int) -> None:
        self._model, self._cache, self._chosen = model, None, list[Any]()
        self.seconds: list[float] = []
        self._forward(ids)

    def step(self) -> None:
        start = time.perf_counter()
        self._forward(self._chosen[-1])
        self.seconds.append(time.perf_counter() - start)

    def tokens(self) -> NDArray[np.int64]:
        """All tokens chosen so far, (rows, steps)."""
        return np.concatenate([one.numpy() for one in self._chosen], axis=1)

    def _forward(self, fed: Any) -> None:
        import torch

        with torch.no_grad():
            out = self._model(input_ids=torch.as_tensor(fed), past_key_values=self._cache, use_cache=True)
            self._cache = out.past_key_values
            self._chosen.append(out.logits[:, -1:].argmax(dim=-1))


class PlainGenerate:
    """transformers' generate with no hook inside its loop, a step a call: from one forward pass to the next."""

    def __init__(self, model: Any, ids: NDArray[np.int64], steps: int) -> None:
        self._model, self._ids, self._new = model, ids, steps + 2
        self._turn, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self.seconds: list[float] = []
        self._out: NDArray[np.int64] | None = None
        self._start = 0.0
        self._forwards = 0
        self._hook = model.register_forward_pre_hook(self._wait)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self._done.acquire()  # the prompt is read; the first token is about to be fed

    def step(self) -> None:
        self._turn.release()
        self._done.acquire()

    def tokens(self) -> NDArray[np.int64]:
        """Let it run to its end; all its tokens, (rows, steps)."""
        self._hook.remove()
        self._turn.release()
        self._thread.join()
        if self._out is None:
            raise SystemExit("transformers' generate failed in its thread; see above")
        return self._out

    def _wait(self, module: Any, args: Any) -> None:
        if threading.current_thread() is not self._thread:
            return
        now = time.perf_counter()
        self._forwards += 1
        if self._forwards == 1:  # the prompt
            return
        if self._forwards > 2:
            self.seconds.append(now - self._start)
        self._done.release()
        self._turn.acquire()
        self._start = time.perf_counter()

    def _run(self) -> None:
        import torch

        torch.set_num_threads(torch.get_num_threads())  # OpenMP keeps the number a thread
        ids = torch.from_numpy(self._ids)
        out = self._model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=self._new,
            do_sample=False,
            num_beams=1,
            use_cache=True,
        )
        self._out = out[:, ids.shape[1] :].numpy()


Other = type[BareLoop] | type[PlainGenerate]


class Arms:
    """Ours and the others, on one loaded model."""

    def __init__(self, options: argparse.Namespace) -> None:
        from genqual.engines.hf.eager import TransformersEager

        config = embedded.config(options.model)
        model = ModelSpec(options.model, "embedded", options.model, str(config["model_type"]))
        request = LoadRequest(model, options.dtype, "cpu", 0, 1, 0, 1, options.threads)
        self.engine = TransformersEager()
        self.engine.load(request)
        ids = np.random.default_rng(0).integers(3, 256, (options.rows, options.input_length))
        self.batch = TokenBatch(ids.astype(np.int64), np.ones_like(ids, dtype=np.int64))
        self.new = int(options.new_tokens)
        self.tokens: dict[str, list[list[int]]] = {}

    def round(self, name: str, kind: Other) -> float:
        """Median over one generation's steps of ours / the two steps of `kind` around it.

        Ours is what `generate` publishes between two stamps, less the time away for the other's step.
        """
        other = kind(self.engine.model, self.batch.ids, self.new)
        away: list[float] = []  # seconds of ours spent on the other's step, the way there and back included

        def their_turn() -> None:
            start = time.perf_counter()
            other.step()
            away.append(time.perf_counter() - start)

        self.engine.between_steps(their_turn)
        try:
            run = self.engine.generate(self.batch, self.new)
        finally:
            self.engine.between_steps(None)
            tokens = other.tokens()
        self.tokens |= {"ours": run.tokens.tolist(), name: tokens[:, : self.new].tolist()}
        theirs = np.array(other.seconds[: self.new])  # the one of place k ran within our step k
        ours = np.diff(run.step_s) - np.array(away[1 : self.new])
        return float(np.median(ours / np.sqrt(theirs[:-1] * theirs[1:])))

    def check(self) -> None:
        """All three must have made the same tokens, or they did not do the same work."""
        for name, tokens in self.tokens.items():
            if tokens != self.tokens["ours"]:
                raise SystemExit(f"{name} made other tokens than ours: the times cannot be compared")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run both alternations, print the table, return the exit status."""
    options = parser().parse_args(arguments)
    if options.new_tokens < 2 or options.rounds < LEAST:
        parser().error(f"--new-tokens must be at least 2 (one token has no TPOT), --rounds at least {LEAST}")
    arms = Arms(options)
    others: dict[str, Other] = {"generate": PlainGenerate, "bare loop": BareLoop}
    found: dict[str, list[float]] = {name: [] for name in others}
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
    settings.pop("json")
    progress, stopped = Progress(), False
    try:
        for turn in range(options.rounds + 1):
            for name, kind in others.items():
                known = "; ".join(f"{other} {so_far(each)}" for other, each in found.items())
                progress.show(f"round {turn} of {options.rounds}, our TPOT / {known}")
                ratio = arms.round(name, kind)
                if turn:  # the first is for warming up
                    found[name].append(ratio)
            keep(options.json, settings, found)
    except KeyboardInterrupt:
        stopped = True  # what is known so far is worth saying
    finally:
        progress.clear()
    rounds = min(map(len, found.values()))
    if stopped:
        print(f"interrupted after {rounds} of {options.rounds} rounds")
    if rounds < LEAST:
        print("too few rounds for an interval: " + "; ".join(f"{name} {so_far(each)}" for name, each in found.items()))
        return 130
    ratios = {name: summarise(each) for name, each in found.items()}
    arms.check()
    held = ratios["generate"].within(options.tolerance)
    print(
        f"{options.model} {options.dtype}, threads {options.threads}, tokens {options.new_tokens}, rows {options.rows}"
    )
    rows = [[f"our TPOT / {name}", str(ratio), f"{ratio.count} rounds"] for name, ratio in ratios.items()]
    print(table([["ratio", "median [99 % interval]", "of"], *rows]))
    print(f"within {options.tolerance:.1%} of generate without a hook: {'yes' if held else 'not shown'}")
    save(options.json, {"settings": settings, "held": held} | {name: plain(ratio) for name, ratio in ratios.items()})
    if stopped:
        return 130
    return 0 if held else 1


def keep(path: Path | None, settings: dict[str, Any], found: dict[str, list[float]]) -> None:
    """What is known so far, over the file of the round before; the result replaces it at the end."""
    if path is not None and min(map(len, found.values())) >= LEAST:
        ratios = {name: plain(summarise(each)) for name, each in found.items()}
        save(path, {"settings": settings, "held": None} | ratios)


if __name__ == "__main__":
    sys.exit(main())
