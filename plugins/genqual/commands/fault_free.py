"""Fault-free runs of a model on this host's processor. Envelopes are made of them and calibrated with them."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from genqual.commands.streaming import say
from genqual.conformance.judges.self_checks import rows_of
from genqual.conformance.references.make import Reference
from genqual.devices.registry import processor
from genqual.dtypes import DTYPES
from genqual.engines.base import Scores, TokenBatch
from genqual.errors import BadInput, Unsupported
from genqual.models.declared_inputs import declared_in
from genqual.models.spec import ModelSpec
from genqual.ranks.client import Generator
from genqual.ranks.on_cpu import cpu_generator

# Two that differ in kernels: an envelope of one implementation alone would take its habits for the dtype's.
ATTENTION: Final = ("eager", "sdpa")
_PACKAGES: Final = {
    **dict.fromkeys(("int8-weight", "int8-dynamic", "int8-smoothquant"), ("torchao",)),
    "int8-bitsandbytes": ("bitsandbytes", "accelerate"),
}


def fault_free_runs(
    spec: ModelSpec, made: Reference, scheme: str, *, attentions: Sequence[str] = ATTENTION, stream: bool = False
) -> dict[str, Scores]:
    """Scores of transformers on the CPU, forced on the reference's tokens, by what was run.

    Kernels differ (`attentions`, where the architecture has them), and so do shapes: batched with a cache, one pass,
    row by row. All are honest, and none is the device under test. With `stream` weights stay on disk where they do not
    fit into a fifth of the free memory, and row by row is left out: it would read them once a row and step. Raises
    BadInput, with the reason, where none can run.
    """
    # A checkpoint that quantises activations by its own word is rounded by no package.
    packages = ("transformers", "torch", *(() if declared_in(spec, scheme) else _PACKAGES.get(scheme, ())))
    versions = " ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    batch = TokenBatch.of(made.prompts)
    found, why = {}, ""
    for attention in attentions:
        say(f"{spec.name}: fault-free {scheme} runs with {attention} attention")
        with cpu_generator(spec, scheme, attention, progress=say, stream=stream) as generator:
            try:
                found[f"{versions} {attention} cached"] = generator.score(batch, made.forced)
            except Unsupported as reason:
                why = _why(reason)
                say(f"{spec.name}: left out: {why}")
                continue
            found[f"{versions} {attention} one pass"] = generator.score_prefill(batch, made.forced)
            if stream:
                continue
            rows = [generator.score(TokenBatch.of([row]), made.forced[[i]]) for i, row in enumerate(made.prompts)]
            found[f"{versions} {attention} row by row"] = side_by_side(rows)
    if not found:
        raise BadInput(f"model {spec.name}: transformers cannot run {scheme} here, so it has no tolerance: {why}")
    return found


def _why(reason: Unsupported) -> str:
    """What a rank said, without the name of its group before it."""
    text = str(reason)
    return text.partition(": ")[2] or text


def fp32_run(
    spec: ModelSpec, made: Reference, passes: Callable[[Scores], bool], *, stream: bool = False
) -> tuple[Scores, str, tuple[str, ...]]:
    """Scores of transformers in fp32 on the CPU, forced on the reference's tokens; as plain as there is, and cached.

    Eager where the architecture has it; where that does not pass, as transformers chooses. The third are the attentions
    whose runs of a narrower dtype may make a tolerance: both, or what passes alone. Where nothing passes, the second
    tells what does of the same model: each prompt alone, or each alone in one pass without a cache; "" with `stream`,
    and where neither does. With `stream` one pass without a cache reads the weights once, and not once a token: what a
    cache would spoil shows in the narrow dtype, whose runs are cached. Raises Unsupported when it does not load.
    """
    batch = TokenBatch.of(made.prompts)
    failed: tuple[Scores, str, tuple[str, ...]] | None = None
    for attention in (ATTENTION[0], None):
        with cpu_generator(spec, "fp32", attention, progress=say, stream=stream) as generator:
            try:
                scores = (generator.score_prefill if stream else generator.score)(batch, made.forced)
            except Unsupported:
                if attention is None and failed is None:
                    raise
                continue
            if passes(scores):
                if failed is not None:
                    say(f"{spec.name}: {ATTENTION[0]} attention is wrong in fp32, and what transformers chooses is not")
                return scores, "", ATTENTION if failed is None else ATTENTION[1:]
            failed = failed or (scores, "" if stream else _what_passes(generator, made, passes), ATTENTION)
    assert failed is not None, "the last attempt returns or raises"
    return failed


def _what_passes(generator: Generator, made: Reference, passes: Callable[[Scores], bool]) -> str:
    """Where a whole batch does not pass: what is wrong by what is right."""
    rows = side_by_side([generator.score(TokenBatch.of([p]), made.forced[[i]]) for i, p in enumerate(made.prompts)])
    if passes(rows):
        return "Each prompt alone passes, so transformers lets padding into the answers of this architecture"
    alone = [generator.score_prefill(TokenBatch.of([p]), made.forced[[i]]) for i, p in enumerate(made.prompts)]
    if passes(side_by_side(alone)):
        return (
            "Each prompt alone passes in one pass and not token by token, so what transformers keeps between tokens "
            "(keys and values, or a state) is wrong for this architecture"
        )
    return ""


def other_shapes(spec: ModelSpec, made: Reference, scheme: str, *, attention: str = ATTENTION[0]) -> dict[str, Scores]:
    """More fault-free runs: behind padding, in two half batches, in the opposite order."""
    batch, rows = TokenBatch.of(made.prompts), list(range(made.rows))
    halves = [rows[: len(rows) // 2], rows[len(rows) // 2 :]]
    say(f"{spec.name}: fault-free {scheme} runs of other shapes")
    with cpu_generator(spec, scheme, attention, progress=say) as generator:

        def of(chosen: Sequence[int]) -> Scores:
            return generator.score(TokenBatch.of([made.prompts[i] for i in chosen]), made.forced[list(chosen)])

        backwards = of(rows[::-1])
        return {
            "padded by 31": generator.score(TokenBatch.of(made.prompts, length=batch.ids.shape[1] + 31), made.forced),
            "in two halves": side_by_side([of(half) for half in halves if half]),
            "in the opposite order": rows_of(backwards, rows[::-1]),
        }


def side_by_side(rows: Sequence[Scores]) -> Scores:
    """The statistics of several runs of the same steps, as one batch."""

    def joined(name: str) -> Any:
        return np.concatenate([getattr(row, name) for row in rows], axis=1)

    names = ("projections", "top_ids", "top_logits", "logsumexp", "forced_logit", "finite")
    return Scores(**{name: joined(name) for name in names})


def other_ways(spec: ModelSpec, made: Reference, scheme: str, *, attention: str = ATTENTION[0]) -> dict[str, Scores]:
    """More fault-free runs, of other arithmetic: torch's scalar kernels, two threads, and the work of two ranks.

    Two threads and two ranks where the host has two places; ranks where DeepSpeed-Inference has the scheme.
    """
    batch, places = TokenBatch.of(made.prompts), processor().probe().count
    ways: dict[str, dict[str, Any]] = {"scalar kernels": {"env": {"ATEN_CPU_CAPABILITY": "default"}}}
    if places > 1:
        ways["two threads"] = {"cores": 2}
    if places > 1 and scheme in DTYPES:
        ways["two ranks of deepspeed-inference"] = {"name": "deepspeed-inference", "ranks": 2}
    found = {}
    for way, how in ways.items():
        say(f"{spec.name}: fault-free {scheme}, {way}")
        with cpu_generator(spec, scheme, attention, progress=say, **how) as generator:
            try:
                found[way] = generator.score(batch, made.forced)
            except Unsupported as reason:
                say(f"{spec.name}: left out: {_why(reason)}")
    return found
