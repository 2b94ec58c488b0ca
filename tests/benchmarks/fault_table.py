"""What each fault of the catalogue reads in both modes, beside fault-free runs: where 1.25 and 8 come from.

    python -m tests.benchmarks.fault_table llama-tiny bloom-tiny smollm2-135m

One rank of transformers a model and dtype (two ranks of DeepSpeed for faults of collectives), teacher forced on the
committed reference, statistics on the 256 projections. `ratio` is nrms over the fault-free envelope (declared mode) or
over the limit (fp32 mode); `sigmas` is the largest (step, prompt) error and the largest margin of a flip, in sigma_t.
Nothing here is timed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from genqual.cases import Case
from genqual.conformance.judgement import against_oracle
from genqual.conformance.judges import logits
from genqual.conformance.references import file
from genqual.conformance.references.make import Reference
from genqual.conformance.tolerance import cell_errors
from genqual.devices.registry import device
from genqual.engines.base import Scores, TokenBatch
from genqual.engines.registry import engine
from genqual.faults import CATALOGUE
from genqual.models.registry import resolve
from genqual.paths import data_dir
from genqual.ranks.client import Generator
from genqual.ranks.group_spec import GroupPlan
from genqual.ranks.pool import Pool
from tests.here import CPU

Line = tuple[str, str, str, str, str, str, str, str]
HEAD: Line = ("model", "dtype", "what", "nrms", "ratio", "flips", "sigmas", "verdict")


def main(arguments: list[str]) -> int:
    """Print a Markdown table; exit 1 when a fault-free run fails or a fault passes both modes."""
    parser = argparse.ArgumentParser("python -m tests.benchmarks.fault_table", description=__doc__)
    parser.add_argument("models", nargs="+")
    models = parser.parse_args(arguments).models
    print("| " + " | ".join(HEAD) + " |\n|" + "---|" * len(HEAD), flush=True)
    found: dict[tuple[str, str], set[str]] = {}
    with tempfile.TemporaryDirectory() as logs:
        pool = Pool(1)
        try:
            for model in models:
                for line in lines(pool, Path(logs), model):
                    found.setdefault((line[0], line[2]), set()).add(line[-1])
                    print("| " + " | ".join(line) + " |", flush=True)
        finally:
            pool.close_all()
    wrong = [key for key, said in found.items() if ("honest" in key[1]) == ("fail" in said)]
    print(f"\nsurvivors and false alarms: {wrong or 'none'}")
    return bool(wrong)


def lines(pool: Pool, logs: Path, model: str) -> Iterator[Line]:
    """Fault-free runs first, then each fault that fits."""
    reference = file.read(data_dir("baselines") / "references" / model)
    batch = TokenBatch.of(reference.prompts)
    wide = TokenBatch.of(reference.prompts, length=batch.ids.shape[1] + 31)
    architecture = resolve(model).architecture
    for name, ranks in (("transformers", 1), ("deepspeed-inference", 2)):
        for dtype in ("bf16", "fp32"):
            faults = [
                fault
                for fault in CATALOGUE.values()
                if fault.sample
                and fault.kind in ("logits", "weights")
                and not fault.equivalent
                and fault.fits(engine=name, architecture=architecture, ranks=ranks)
                and (ranks == 1 or fault.min_ranks > 1)
            ]
            if ranks > 1 and architecture == "llama" and resolve(model).source != "embedded":
                continue  # nine heads of SmolLM2 do not divide by two
            generator = started(pool, logs, Case(CPU, name, model, dtype, ranks))
            where = "" if ranks == 1 else f", {name} x{ranks}"
            yield said(reference, dtype, f"honest{where}", generator.score(batch, reference.forced))
            yield said(reference, dtype, f"honest, padded{where}", generator.score(wide, reference.forced))
            yield said(reference, dtype, f"honest, one pass{where}", generator.score_prefill(batch, reference.forced))
            for fault in faults:
                with generator.fault(fault.entry, **fault.params):
                    yield said(reference, dtype, fault.name + where, generator.score(batch, reference.forced))


def started(pool: Pool, logs: Path, case: Case) -> Generator:
    place, spec = device(case.device), engine(case.engine)
    return Generator(
        pool,
        GroupPlan(
            case=case,
            implementation=spec.implementation,
            model=resolve(case.model),
            placement=place.place(case.ranks, case.cores_per_rank),
            torch_device=place.torch_device,
            backend=place.backend,
            logs=logs,
            options=dict(spec.options),
        ),
    )


def said(reference: Reference, dtype: str, what: str, scores: Scores) -> Line:
    """One row of the table."""
    verdict = logits.judge_scores(scores, reference, dtype=dtype)
    tolerance = against_oracle(reference, dtype, 1e-5, 1.25, 8.0)
    if verdict.nrms is None or verdict.ratio is None or tolerance is None:
        return (reference.model, dtype, what, "not finite", "-", "-", "-", verdict.status)
    sigma = tolerance.sigma[:, None]
    cells = float((cell_errors(scores.projections, reference.projections) / sigma).max())
    flipped = scores.top_ids[..., 0] != reference.tokens
    flips = float(np.where(flipped, reference.margins / sigma, 0.0).max())
    numbers = (f"{verdict.nrms:.2g}", f"{verdict.ratio:.3g}", f"{verdict.flips}", f"{cells:.2g} / {flips:.2g}")
    return (reference.model, dtype, what, *numbers, verdict.status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
