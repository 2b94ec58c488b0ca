"""Several instances of one case at the same time, each on cores of its own, recorded. No torch, no pytest hook."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from genqual.cases import Case, Json, Workload
from genqual.devices.base import Placement
from genqual.devices.registry import devices
from genqual.engines.base import Generated, TokenBatch
from genqual.engines.registry import engine
from genqual.errors import BadInput, EngineFailed, Unsupported
from genqual.metrics import concurrent
from genqual.models.prompts import synthetic_rows
from genqual.ranks.client import Generator
from genqual.ranks.group_spec import GroupPlan
from genqual.ranks.pool import Pool
from genqual.session.benchmark import WARMUP
from genqual.session.context import Run
from genqual.session.groups import ran


def together(run: Run, case: Case, workload: Workload, *, label: str) -> tuple[str, Path]:
    """Run the workload in `--instances` groups of their own at once; what they did in words, and the record.

    All begin each repetition together. Raises Unsupported where the host has no room for so many, EngineFailed when
    instances do not say the same, and what the first instance that fell raised.
    """
    count = run.options.instances
    weights_sha256, asked = run.references.weights_sha256(case.model), protocol(run)
    with run.records.recorder.attempt(case, workload, weights_sha256=weights_sha256, protocol=asked, label=label):
        runs, inspection = _measure(run, case, workload, count)
        found = concurrent.compute(runs, workload)
    path = run.records.recorder.measurement(
        case,
        workload,
        found,
        {},
        weights_sha256=weights_sha256,
        protocol=asked,
        inspection=inspection,
        label=label,
    )
    said = f"{count} instances: {found['instances_tokens_per_s'].value:.4g} tokens/s in all"
    if "instances_tpot" in found:
        each = ", ".join(f"{1e3 * sample:.4g}" for sample in found["instances_tpot"].samples)
        said += f", TPOT of each {each} ms"
    return said, path


def protocol(run: Run) -> dict[str, Json]:
    """What defines the metrics of `together` beyond their definition."""
    return {"instances": run.options.instances, "warmup": WARMUP, "repetitions": run.selection.profile.repetitions}


def _measure(run: Run, case: Case, workload: Workload, count: int) -> tuple[list[list[Generated]], dict[str, Json]]:
    """Runs by repetition and instance, and what the first instance says ran."""
    plan, repetitions = run.groups.generator(case).plan, run.selection.profile.repetitions
    whole = _room(run, case, count)
    shares = [_share(whole, index, case.ranks) for index in range(count)]
    with (
        run.groups.pool.computing(replace(plan, placement=whole)),
        _live([replace(plan, placement=share) for share in shares], run) as live,
    ):
        shape = (live[0].loaded[0].vocabulary, workload.batch, workload.input_length)
        alike = engine(case.engine).tier != "tokens"  # else one server may answer all, from its cache
        rows = synthetic_rows(*shape, seed=0)
        count_of_runs = WARMUP + repetitions
        fresh = run.groups.prompts
        own = [[TokenBatch.of(fresh.rows(*shape)) for _ in range(count_of_runs)] for _ in live if not alike]
        run.progress(f"measuring {count} instances of {case} {workload.id}")
        runs = _at_once(live, own or TokenBatch.of(rows), workload.new_tokens, count_of_runs)[WARMUP:]
        inspection = ran(live[0])
    if alike and any(not np.array_equal(one.tokens, runs[0][0].tokens) for each in runs for one in each):
        raise EngineFailed(f"{case}: instances side by side gave different tokens for the same prompts")
    return runs, inspection


def _room(run: Run, case: Case, count: int) -> Placement:
    """Places for the ranks of all instances. Raises Unsupported with the reason where there are too few."""
    device = devices()[case.device]
    if device.exclusive:
        raise Unsupported(f"--instances {count}: a {case.device} serves one process; run one pytest a card instead")
    try:
        return device.place(count * case.ranks, case.cores_per_rank, taken=run.groups.taken())
    except BadInput as error:
        raise Unsupported(f"--instances {count} of {case.ranks} rank(s): {error}") from None


def _share(whole: Placement, index: int, ranks: int) -> Placement:
    """The places of instance `index`; the leases of all are held by the caller."""
    own = slice(index * ranks, (index + 1) * ranks)
    return Placement(env=whole.env[own], cores=whole.cores[own])


@contextlib.contextmanager
def _live(plans: list[GroupPlan], run: Run) -> Iterator[list[Generator]]:
    """A group for each plan, loaded one after another, ended with the block; a pool each, because each has a thread."""
    with contextlib.ExitStack() as stack:
        live = []
        for plan in plans:
            pool = Pool(1, progress=run.progress)
            stack.callback(pool.close_all)
            live.append(Generator(pool, plan))
            live[-1].loaded  # noqa: B018  # starts the group
        yield live


def _at_once(
    live: list[Generator], batch: TokenBatch | list[list[TokenBatch]], new_tokens: int, repetitions: int
) -> list[list[Generated]]:
    """Runs by repetition and instance; no instance begins one before all have ended the one before.

    `batch` is the same for all, or one for each instance and repetition.
    """
    batches = [[batch] * repetitions for _ in live] if isinstance(batch, TokenBatch) else batch
    start = threading.Barrier(len(live))

    def serve(generator: Generator, own: list[TokenBatch]) -> list[Generated]:
        runs = []
        try:
            for one in own:
                start.wait()
                runs.append(generator.generate(one, new_tokens))
        except BaseException:
            start.abort()  # the others would wait for this one for ever
            raise
        return runs

    with ThreadPoolExecutor(len(live)) as threads:
        futures = [threads.submit(serve, *each) for each in zip(live, batches, strict=True)]
    fell = [error for error in (future.exception() for future in futures) if error is not None]
    for error in sorted(fell, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        raise error
    return [list(each) for each in zip(*(future.result() for future in futures), strict=True)]
