"""Which share of single flipped bits genqual finds: by place, by bit, and beside a rule of absolute errors.

    python -m tests.benchmarks.silent_corruption --resume FILE                    200 faults, 60 s each at most
    python -m tests.benchmarks.silent_corruption --faults 0 --clean 600 --engines transformers,deepspeed-inference

Each fault has a run of its own on llama-tiny, two prompts, eight steps, again and again, until the first alarm or for
`--seconds`; the five rarest for 15 times as long. It strikes at a pass that the seed draws, and again about every so
many passes, as a defective cell does; a weight stays wrong.

    weight      a stored weight                                   cache       a stored key or value of the newest token
    activation  one number of one pass                            collective  one number of the sum that one of two
    tile        one number of one of up to 100,000 products                   ranks gets from an all-reduce

A weight that is wrong from the start is wrong in the first run, too: only the oracle's tolerance can find it.
`at once` means: in the first run that it struck, so by that strike alone or with others of the same run. For
`--beside` more seconds after the alarm the other rules are asked of the same run. Every fault is taken out and two runs
are compared before the next one: these are clean. Exit 1 when a clean run had an event.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from genqual.cases import Case, Json
from genqual.conformance.judgement import ENVELOPE_FACTOR, FP32_LIMIT
from genqual.conformance.judges.logits import judge_scores
from genqual.conformance.references import file
from genqual.conformance.references.data import Reference
from genqual.engines.base import TokenBatch
from genqual.errors import BadInput
from genqual.faults import SHARDED
from genqual.health.checks.repeats import HERE, MODEL, ROWS, STEPS
from genqual.health.products import Products
from genqual.paths import data_dir
from genqual.ranks.client import Generator
from genqual.ranks.group_spec import plan
from genqual.ranks.pool import Pool
from tests.benchmarks.corruption_plan import AT_START, Flip, draw
from tests.benchmarks.corruption_results import Result, Rules, Store, table
from tests.here import CPU

RUNS = 8  # of one call to the ranks
BLOCK = 50  # faults
STRIKES = "genqual.faults.injectors.strikes:passes"


def main(arguments: list[str]) -> int:
    """Print the table; exit 1 when a clean run had an event, 2 on a file of another plan."""
    parser = argparse.ArgumentParser("python -m tests.benchmarks.silent_corruption", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0, help="for each fault; the five rarest 15 times as long")
    parser.add_argument("--beside", type=float, default=1.0, help="more seconds for the other rules after an alarm")
    parser.add_argument("--seed", type=int, default=23)
    parser.add_argument("--resume", type=Path, metavar="FILE", help="keep results there, and go on from it")
    parser.add_argument("--clean", type=float, default=0.0, help="seconds without a fault for each of --engines")
    parser.add_argument("--engines", default="transformers")
    options = parser.parse_args(arguments)
    try:
        store = Store(options.resume, {"seconds": options.seconds, "seed": options.seed})
    except BadInput as error:
        print(error, file=sys.stderr)
        return 2
    missing = [one for one in draw(options.faults, options.seed) if one.number not in store.done]
    with tempfile.TemporaryDirectory() as logs:
        # In blocks, so that what an interrupted run leaves is of all places.
        missing.sort(key=lambda one: (one.number // BLOCK, one.group))
        for group, flips in groupby(missing, key=lambda one: one.group):
            for result in struck(group, list(flips), Path(logs), options.seconds, options.beside):
                store.add(result)
        for engine in options.engines.split(",") if options.clean else ():
            store.add(clean(engine, options.clean, Path(logs)))
    print(table(store.results))
    return int(any(one.get("clean_events") or ("clean" in one and one["events"]) for one in store.results))


def struck(
    group: tuple[str, int, str], flips: list[Flip], logs: Path, seconds: float, beside: float
) -> Iterator[Result]:
    """The result of each of `flips`, which all are of one group of processes."""
    engine, ranks, dtype = group
    if not engine:
        yield from (_tile(one, seconds) for one in flips)
        return
    with_model = _Model(engine, ranks, dtype, logs, products=False)
    try:
        for one in flips:
            yield with_model.at_start(one) if one.place == AT_START else with_model.struck(one, seconds, beside)
    finally:
        with_model.close()


class _Model:
    """llama-tiny in one group of processes, its first run made and judged."""

    def __init__(self, engine: str, ranks: int, dtype: str, logs: Path, *, products: bool) -> None:
        self._pool, self._dtype = Pool(1), dtype
        self.generator = Generator(self._pool, plan(Case(CPU, engine, MODEL, dtype, ranks, 1), logs))
        self._reference: Reference = file.read(data_dir("baselines") / "references" / MODEL).select(
            rows=range(ROWS), steps=STEPS
        )
        self._limit = FP32_LIMIT if dtype == "fp32" else ENVELOPE_FACTOR * self._reference.envelopes[dtype].nrms
        self._batch = TokenBatch.of(self._reference.prompts)
        arrays = {"ids": self._batch.ids, "mask": self._batch.mask, "forced": self._reference.forced}
        self.generator.invoke(f"{HERE}:begin", {"products": products}, arrays)

    def close(self) -> None:
        self._pool.close_all()

    def again(self, runs: int, **params: Json) -> list[dict[str, Any]]:
        """Of each rank: what `runs` more runs gave."""
        return [reply.value for reply in self.generator.invoke(f"{HERE}:again", {"runs": runs, **params})]

    def struck(self, flip: Flip, seconds: float, beside: float) -> Result:
        """Put the fault in, wait for an alarm, ask the other rules, take it out, and run clean."""
        rules, runs, given = Rules(self._limit), 0, seconds * flip.longer
        with self.generator.fault(flip.entry, **flip.params):
            start = time.monotonic()
            while not rules.by and time.monotonic() - start < given:
                ranks = self.again(RUNS, stop=True)
                runs += int(ranks[0]["runs"])
                rules.take(event for rank in ranks for event in rank["events"])
            took = time.monotonic() - start
            strikes = [at for reply in self.generator.invoke(STRIKES) for at in reply.value["passes"]]
            while rules.by and not rules.all and time.monotonic() - start < took + beside:
                rules.take(event for rank in self.again(1) for event in rank["events"])
        after = self.again(2)
        # A run is a generation and a forced one. What struck after the alarm's run is not what raised it. Digests of
        # weights are compared once a call.
        struck = [at // (2 * STEPS) + 1 for at in strikes if at < runs * 2 * STEPS]
        last = runs if rules.by != "weights" else runs // RUNS * RUNS - RUNS + 1
        return _result(
            flip, rules, took, runs=runs, strikes=len(struck), first=bool(rules.by and struck and struck[0] >= last),
            clean_steps=sum(one["steps"] for one in after),
            clean_events=sum(len(one["events"]) + one["more"] for one in after),
        )  # fmt: skip

    def at_start(self, flip: Flip) -> Result:
        """A weight that is wrong before the first run, judged by the oracle."""
        start = time.monotonic()
        with self.generator.fault(flip.entry, **flip.params):
            scores = self.generator.score(self._batch, self._reference.forced)
            right = judge_scores(scores, self._reference, dtype=self._dtype).passed
        took = time.monotonic() - start
        return _result(flip, Rules(0.0), took, found=not right, first=None, tolerance=not right, beside=None,
                       by="" if right else "oracle")  # fmt: skip


def _tile(flip: Flip, seconds: float) -> Result:
    """One wrong number of one of `every` products of this process, each with a known answer."""
    torch.set_num_threads(1)
    products, rules, start = Products(flip.dtype, 0), Rules(0.0), time.monotonic()
    while not rules.by and time.monotonic() - start < seconds * flip.longer:
        event = products.run(flip.every - 1, flip.bit, flip.element)
        if event is not None:
            rules.take([{"kind": "product", "got": event.got, "expected": event.expected}])
    took = time.monotonic() - start
    return _result(flip, rules, took, runs=products.count, strikes=int(products.count >= flip.every),
                   first=bool(rules.by))  # fmt: skip


def _result(flip: Flip, rules: Rules, took: float, **more: Any) -> Result:
    return {
        **{"number": flip.number, "place": flip.place, "dtype": flip.dtype, "bit": flip.bit, "bits": flip.bits},
        **{"every": flip.every, "longer": flip.longer, "took_s": round(took, 1), "params": flip.params},
        **{"found": bool(rules.by), "by": rules.by},
        **{"tolerance": rules.tolerance, "beside": rules.beside},
        **more,
    }


def clean(engine: str, seconds: float, logs: Path) -> Result:
    """`seconds` without a fault, in fp32: every step and product that was compared, and every event."""
    model = _Model(engine, 2 if engine in SHARDED else 1, "fp32", logs, products=True)
    counts = dict.fromkeys(("steps", "products", "events"), 0)
    start = time.monotonic()
    try:
        while time.monotonic() - start < seconds:
            for rank in model.again(RUNS):
                counts["steps"] += rank["steps"]
                counts["products"] += rank["products"]
                counts["events"] += len(rank["events"]) + rank["more"]
    finally:
        model.close()
    return {"clean": engine, "dtype": "fp32", "seconds": time.monotonic() - start, **counts}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
