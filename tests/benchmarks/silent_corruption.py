"""Which share of single flipped bits `genqual node` finds: by place, by bit, and beside a rule of absolute errors.

    python -m tests.benchmarks.silent_corruption --sites 3 --json FILE

llama-tiny on one rank of transformers, two prompts, eight steps. Each trial flips one bit at another site while the
request runs for the second time, and gives the check two runs to find it:

    weight       from a forward pass on, for good         activation   in one pass, one number
    cache        a stored value, until the request ends   product      one number of one known-answer product

`at start` is a weight that was wrong before the first run: only the oracle's tolerance can find it. `beside` is the
rule of a vendor's diagnostic on the same runs: a logit that is NaN or infinite, or off by more than 1e-3. Not timed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from genqual.cases import Case, Json
from genqual.conformance.judges.logits import judge_scores
from genqual.conformance.references import file
from genqual.engines.base import TokenBatch
from genqual.health.checks.repeats import HERE, MODEL, ROWS, STEPS
from genqual.paths import data_dir
from genqual.ranks.client import Generator
from genqual.ranks.group_spec import plan
from genqual.ranks.pool import Pool
from tests.here import CPU

FLIPS = "genqual.faults.injectors.flips"
BITS = {"fp32": 32, "bf16": 16}
PARTS = ("mlp_out", "mlp_in", "attention_in", "attention_out")
FLOOR = 1e-3

Trial = dict[str, Any]


def main(arguments: list[str]) -> int:
    """Print the table; exit 1 when a clean run had an event."""
    parser = argparse.ArgumentParser("python -m tests.benchmarks.silent_corruption", description=__doc__)
    parser.add_argument("--sites", type=int, default=3)
    parser.add_argument("--dtypes", default="fp32,bf16")
    parser.add_argument("--step", type=int, default=1, help="every so many bits")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    trials: list[Trial] = []
    with tempfile.TemporaryDirectory() as logs:
        pool = Pool(1)
        try:
            for dtype in options.dtypes.split(","):
                generator = Generator(pool, plan(Case(CPU, "transformers", MODEL, dtype), Path(logs)))
                for trial in run(generator, dtype, options.sites, options.step):
                    trials.append(trial)
                    if options.json:
                        options.json.write_text(json.dumps(trials) + "\n")
        finally:
            pool.close_all()
    table(trials)
    return int(any(one["found"] for one in trials if one["place"] == "clean"))


def run(generator: Generator, dtype: str, sites: int, every: int) -> Iterator[Trial]:
    """Clean runs first and between, then each place and bit at each site."""
    reference = file.read(data_dir("baselines") / "references" / MODEL).select(rows=range(ROWS), steps=STEPS)
    batch = TokenBatch.of(reference.prompts)
    arrays = {"ids": batch.ids, "mask": batch.mask, "forced": reference.forced}
    generator.invoke(f"{HERE}:begin", {}, arrays)
    random = np.random.default_rng(23)
    for bit in range(0, BITS[dtype], every):
        yield {"dtype": dtype, "place": "clean", "bit": bit, **_asked(generator, {})}
        for site in range(sites):
            where: dict[str, Json] = {"element": int(random.integers(1 << 20)), "after": _after(random)}
            part: dict[str, Json] = {"part": PARTS[site % len(PARTS)], "layer": site % 2}
            for place in ("weight", "activation", "cache"):
                more = part if place == "weight" else {"layer": site % 2}
                with generator.fault(f"{FLIPS}:{place}", bit=bit, **where, **more):
                    yield {"dtype": dtype, "place": place, "bit": bit, **_asked(generator, {})}
            params: dict[str, Json] = {"inject": int(random.integers(40)), "bit": bit}
            yield {"dtype": dtype, "place": "product", "bit": bit, **_asked(generator, params)}
            element = where["element"]
            with generator.fault(f"{FLIPS}:weight", bit=bit, element=element, **part):
                scores = generator.score(batch, reference.forced)
                right = judge_scores(scores, reference, dtype=dtype).passed
            yield {"dtype": dtype, "place": "at start", "bit": bit, "found": not right, "beside": None}


def _after(random: np.random.Generator) -> int:
    """A pass of the second generation: a decode step, whose numbers all reach a logit, and not the last one.

    In a prompt's pass most numbers reach none: those of padding, and the last layer's except at the last token. After
    the last step nobody reads the cache.
    """
    return int(random.integers(STEPS + 1, 2 * STEPS - 1))


def _asked(generator: Generator, params: dict[str, Json]) -> Trial:
    (reply,) = generator.invoke(f"{HERE}:again", {"runs": 2, **params})
    events: list[Any] = reply.value["events"]
    off = [one for one in events if one["kind"] == "logits"]
    beside = any(not one["finite"] or float(one["largest"]) > FLOOR for one in off)
    products = [one for one in events if one["kind"] == "product"]
    beside |= any(not abs(float(one["got"]) - float(one["expected"])) <= FLOOR for one in products)
    return {"found": bool(events), "beside": beside}


def table(trials: list[Trial]) -> None:
    """Markdown: for each place and group of bits, found of tried, and found by the other rule."""
    groups: dict[tuple[str, str, str], list[Trial]] = defaultdict(list)
    for one in trials:
        groups[one["dtype"], one["place"], _group(one["dtype"], one["bit"])].append(one)
    print("| dtype | place | bits | tried | found | beside |\n|---|---|---|---|---|---|")
    for (dtype, place, bits), found in groups.items():
        other = "" if found[0]["beside"] is None else str(sum(one["beside"] for one in found))
        print(f"| {dtype} | {place} | {bits} | {len(found)} | {sum(one['found'] for one in found)} | {other} |")


def _group(dtype: str, bit: int) -> str:
    mantissa, top = {"fp32": (23, 31), "bf16": (7, 15)}[dtype]
    if bit == top:
        return "sign"
    if bit >= mantissa:
        return "exponent"
    third = bit * 3 // mantissa
    return ("mantissa, low third", "mantissa, middle third", "mantissa, high third")[third]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
