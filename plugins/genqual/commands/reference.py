"""`genqual reference MODEL`: what the oracle says of a model, and what honest runs of each dtype read against it."""

from __future__ import annotations

import importlib.metadata
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import psutil

from genqual.commands.streaming import say, streamed
from genqual.conformance import reference as references
from genqual.conformance import reference_file
from genqual.conformance.calibration import leave_one_out, summary
from genqual.conformance.judge_own import rows_of
from genqual.conformance.oracle import Oracle, oracle_for
from genqual.conformance.reference import Reference
from genqual.devices.registry import processor
from genqual.engines.base import Scores, TokenBatch
from genqual.engines.registry import engine
from genqual.errors import BadInput, Unsupported
from genqual.models import weights
from genqual.models.prompts import prompt_set, token_rows
from genqual.models.registry import cache_dir, resolve
from genqual.models.spec import ModelSpec
from genqual.ranks.handle import Generator
from genqual.ranks.plan import GroupPlan
from genqual.ranks.pool import Pool
from genqual.spec import Case, Json

# Two that differ in kernels: an envelope of one implementation alone would take its habits for the dtype's.
ATTENTION = ("eager", "sdpa")
MOST_PROMPT_TOKENS = 64
_PACKAGES: Final = {
    **dict.fromkeys(("int8-weight", "int8-dynamic", "int8-smoothquant"), ("torchao",)),
    "int8-bitsandbytes": ("bitsandbytes", "accelerate"),
}

# No CPU multiplies fp8: what honest fp8 reads is emulated, by its own rounding.
_EMULATED: Final[dict[str, dict[str, Json]]] = {"fp8": {"emulate": True}}


@click.command("reference")
@click.argument("model")
@click.option("--out", type=click.Path(path_type=Path), help="Directory to write to. [default: the cache's references]")
@click.option("--prompts", default="bloom", show_default=True, help="Prompt set: bloom, languages or code.")
@click.option("--steps", default=24, show_default=True, type=click.IntRange(1), help="Greedy tokens a prompt.")
@click.option(
    "--schemes", default="bf16,fp16", show_default=True, help="Dtypes to measure an envelope of; '' for none."
)
@click.option(
    "--add", is_flag=True, help="Measure these schemes only, for the reference that is there; the rest stays."
)
@click.option(
    "--calibrate",
    is_flag=True,
    help="Write no reference: run at least five honest ways of each scheme, and keep how far they spread beside it.",
)
@click.option(
    "--stream",
    is_flag=True,
    help="Read the weights layer by layer and keep what is between on disk: for models larger than memory.",
)
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    help="With --stream: where it keeps its state. [default: a folder of the cache's streams]",
)
@click.option("--reason", help="Why an existing reference that says something else is replaced; kept in its history.")
def reference(
    model: str,
    out: Path | None,
    prompts: str,
    steps: int,
    schemes: str,
    add: bool,
    calibrate: bool,
    stream: bool,
    state: Path | None,
    reason: str | None,
) -> None:
    """Make the reference of MODEL: greedy tokens, margins and projections by genqual's own float64 oracle.

    Envelopes come from transformers on this machine's CPU, eager and sdpa, never from a device under test; those of
    quantisation schemes from the library that quantises. An existing reference that differs is overwritten only with
    --reason.

    With --stream the oracle says the same to the bit, in the memory of one layer in float64: each token and the last,
    full pass read every weight once. Run the same command again after an interruption, and it goes on at the layer
    where it was; the state (keys, values and hidden states of all prompts) is removed at the end. Envelopes are then
    measured with weights offloaded to disk, too.

    \b
      genqual reference llama-tiny                     # seconds; the cache keeps it
      genqual reference ./bloom-176b --stream --schemes ''   # the fp32 oracle of a model larger than memory
      genqual reference ./bloom-176b --stream --add --schemes bf16
    """
    if state is not None and not stream:
        raise BadInput("--state is where --stream keeps its state: give --stream, too")
    spec = resolve(model)
    target = (out or cache_dir() / "references") / spec.name
    say(f"{spec.name}: reading the weights")
    sha256 = weights.sha256(spec)
    chosen = [part.strip() for part in schemes.split(",") if part.strip()]
    with ExitStack() as until_written:  # what was streamed stays on disk till its reference does
        if add or calibrate:
            made = reference_file.read(target)
            references.check_weights(made, sha256)
        else:
            rows = token_rows(spec, prompt_set(prompts).texts, max_tokens=MOST_PROMPT_TOKENS)
            say(f"{spec.name}: the oracle generates {steps} tokens after each of {len(rows)} prompts")
            facts: dict[str, Json] = {"prompts": prompts}
            oracle: Oracle
            if stream:
                oracle = streaming = until_written.enter_context(streamed(spec, sha256, rows, steps, state))
                # Named after the oracle whose arithmetic it is: the reference is the same, whichever way it was made.
                facts["oracle"] = streaming.name
            else:
                oracle = oracle_for(weights.config(spec), weights.read(spec))
            made = references.make(spec.name, sha256, oracle, rows, steps, facts=facts)
        if calibrate:
            calibrated(spec, made, chosen, target)
            return
        for scheme in chosen:
            made = references.with_envelope(made, scheme, honest_runs(spec, made, scheme, stream=stream))
            say(f"{spec.name}: honest {scheme} reads nrms {_spread(made, scheme)}")
        reference_file.write(made, target, reason=reason)
        distinct = len(np.unique(made.tokens))
        say(f"{spec.name}: wrote {target} ({made.rows} prompts x {made.steps} steps, {distinct} distinct tokens)")


def _spread(made: Reference, scheme: str) -> str:
    """The envelope's nrms, and the least and most of its runs: how far honest runs lie apart."""
    envelope = made.envelopes[scheme]
    each = np.sqrt((envelope.errors**2).mean(axis=(1, 2))) / made.pooled_spread
    return f"{envelope.nrms:.3g} ({len(each)} runs, {each.min():.3g} to {each.max():.3g})"


def honest_runs(spec: ModelSpec, made: Reference, scheme: str, *, stream: bool = False) -> dict[str, Scores]:
    """Scores of transformers on the CPU, forced on the reference's tokens, by what was run.

    Kernels differ (eager, sdpa where the architecture has it), and so do shapes: batched with a cache, one pass, row by
    row. All are honest, and none is the device under test. With `stream` weights stay on disk where they do not fit
    into half of the free memory, and row by row is left out: it would read them once a row and step.
    """
    packages = ("transformers", "torch", *_PACKAGES.get(scheme, ()))
    versions = " ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    batch = TokenBatch.of(made.prompts)
    found = {}
    for attention in ATTENTION:
        say(f"{spec.name}: honest {scheme} runs with {attention} attention")
        with cpu_generator(spec, scheme, attention, stream=stream) as generator:
            try:
                found[f"{versions} {attention} cached"] = generator.score(batch, made.forced)
            except Unsupported as reason:
                say(f"{spec.name}: left out: {str(reason).split(':')[0]}")
                continue
            found[f"{versions} {attention} one pass"] = generator.score_prefill(batch, made.forced)
            if stream:
                continue
            rows = [generator.score(TokenBatch.of([row]), made.forced[[i]]) for i, row in enumerate(made.prompts)]
            found[f"{versions} {attention} row by row"] = side_by_side(rows)
    return found


def calibrated(spec: ModelSpec, made: Reference, schemes: Sequence[str], target: Path) -> None:
    """Judge honest runs of each scheme by the envelope of the others; write calibration.json and say what it holds."""
    found: dict[str, Json] = {}
    for scheme in schemes:
        runs = leave_one_out(made, scheme, honest_runs(spec, made, scheme) | other_shapes(spec, made, scheme))
        for one in runs:
            say(f"  {one.ratio:.3f} of the others' envelope{', ALARM' if one.alarm else ''}: {one.run}")
        click.echo(f"{spec.name} {summary(scheme, runs)}")
        found[scheme] = [one.as_json() for one in runs]
    file = target / "calibration.json"
    file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    say(f"{spec.name}: wrote {file}")


def other_shapes(spec: ModelSpec, made: Reference, scheme: str) -> dict[str, Scores]:
    """More honest runs: behind padding, in two half batches, in the opposite order."""
    batch, rows = TokenBatch.of(made.prompts), list(range(made.rows))
    halves = [rows[: len(rows) // 2], rows[len(rows) // 2 :]]
    say(f"{spec.name}: honest {scheme} runs of other shapes")
    with cpu_generator(spec, scheme, "eager") as generator:

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


@contextmanager
def cpu_generator(spec: ModelSpec, dtype: str, attention: str, *, stream: bool = False) -> Iterator[Generator]:
    """One rank of plain transformers on the CPU, ended afterwards; with `stream` its weights are offloaded to disk."""
    offloads = stream or dtype == "int8-bitsandbytes"
    device, eager = processor(), engine("accelerate" if offloads else "transformers")
    presence = device.probe()
    if not presence.present:
        raise BadInput(
            f"envelopes are measured on a processor, and {presence.probe} found {presence.found}; make the reference "
            "with --schemes '' (fp32 verdicts only), or on a host that has one"
        )
    case = Case(device.name, eager.name, spec.name, dtype)
    with tempfile.TemporaryDirectory(prefix="genqual-") as logs:
        pool = Pool(1, progress=say)
        plan = GroupPlan(
            case=case,
            implementation=eager.implementation,
            model=spec,
            placement=device.place(1, 1),
            torch_device=device.torch_device,
            backend=device.backend,
            logs=Path(logs),
            options={**eager.options, "attn_implementation": attention}
            | _EMULATED.get(dtype, {})
            | ({"max_memory": psutil.virtual_memory().available // 2} if stream else {}),
        )
        try:
            yield Generator(pool, plan)
        finally:
            pool.close_all()
