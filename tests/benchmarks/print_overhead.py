"""What does a checksum of each step's logits cost a generation? TPOT with it and without, in turns, on one model.

    python -m tests.benchmarks.print_overhead --rounds 200

`genqual node` takes these checksums in each generation of `repeats` and `quorum` (`genqual.health.prints_in_rank`). A
round's ratio is the median step with checksums over the geometric mean of the median steps of the two generations
around it, without. Exit status 0: the upper end of the interval is at most 1 + --tolerance. 1: it is not. Run it alone
on the host.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from genqual.engines.base import LoadRequest, TokenBatch
from genqual.engines.hf.eager import TransformersEager
from genqual.health.prints_in_rank import step_prints
from genqual.models import embedded
from genqual.models.spec import ModelSpec
from tests.benchmarks.ratios import alternate, plain, save, summarise

LEAST = 8  # ratios that hold a median at 99 %


def main(arguments: Sequence[str]) -> int:
    """Print the ratio with its interval; return the exit status."""
    parser = argparse.ArgumentParser("python -m tests.benchmarks.print_overhead", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--model", choices=embedded.NAMES, default="llama-30m")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--new-tokens", type=int, default=33)
    parser.add_argument("--rounds", type=int, default=200, help=f"at least {LEAST} (default: %(default)s)")
    parser.add_argument("--tolerance", type=float, default=0.01, help="(default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the result here")
    options = parser.parse_args(arguments)
    if options.rounds < LEAST or options.new_tokens < 2:
        parser.error(f"--rounds at least {LEAST}, --new-tokens at least 2")
    config = embedded.config(options.model)
    engine = TransformersEager()
    spec = ModelSpec(options.model, "embedded", options.model, str(config["model_type"]))
    engine.load(LoadRequest(spec, options.dtype, "cpu", 0, 1, 0, 1, options.threads))
    batch = TokenBatch.of([[3 + column % 200 for column in range(32)]] * options.rows)

    def without() -> float:
        return float(np.median(np.diff(engine.generate(batch, options.new_tokens).step_s)))

    def with_checksums() -> float:
        with step_prints(engine) as prints:
            step_s = without()
        if len(set(prints)) < 2 or len(prints) != options.new_tokens:
            raise SystemExit(f"{len(prints)} checksums of {options.new_tokens} steps: nothing to compare")
        return step_s

    alternate(with_checksums, without, 2)  # for warming up
    ratio = summarise(alternate(with_checksums, without, options.rounds), 0.95)
    held = ratio.high <= 1.0 + options.tolerance
    print(f"{options.model} {options.dtype}, threads {options.threads}, rows {options.rows}, {ratio.count} rounds")
    print(f"TPOT with a checksum of each step / without: {ratio} (median, 95 % interval)")
    print(f"at most {options.tolerance:.1%} more: {'yes' if held else 'not shown'}")
    settings = {name: value for name, value in vars(options).items() if name != "json"}
    save(options.json, {"settings": settings, "held": held, "ratio": plain(ratio)})
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
