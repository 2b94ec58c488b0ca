"""`genqual reference MODEL`: the oracle's outputs, and how far fault-free runs of each dtype are from them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Final

import click
import numpy as np

from genqual.cases import PRECISIONS, Json
from genqual.commands.fault_free import fault_free_runs, other_shapes, other_ways
from genqual.commands.streaming import say, streamed
from genqual.commands.tolerances import announce, check_declared, check_fp32, with_tolerances
from genqual.conformance.calibration import leave_one_out, summary
from genqual.conformance.oracle.registry import Oracle, oracle_for, why_no_oracle
from genqual.conformance.references import file as reference_file
from genqual.conformance.references import index
from genqual.conformance.references import make as references
from genqual.conformance.references.make import Reference
from genqual.devices.registry import processor
from genqual.errors import BadInput, did_you_mean
from genqual.models import weights
from genqual.models.prompts import has_tokenizer, prompt_set, synthetic_rows, token_rows
from genqual.models.registry import cache_dir, resolve
from genqual.models.spec import ModelSpec
from genqual.ranks.on_cpu import check_runs
from genqual.ranks.peer_oracle import facts as peer_facts
from genqual.ranks.peer_oracle import peer_oracle

MOST_PROMPT_TOKENS = 64
WHO: Final = {"oracle": "the oracle", "transformers": "transformers in fp32"}


@click.command("reference")
@click.argument("model")
@click.option("--out", type=click.Path(path_type=Path), help="Directory to write to. [default: the cache's references]")
@click.option(
    "--by",
    type=click.Choice(["oracle", "transformers"]),
    default="oracle",
    show_default=True,
    help="Who says what is right: genqual's own float64 oracle, or transformers in fp32 on the CPU, for architectures "
    "that the oracle does not know; verdicts then say that it is not independent.",
)
@click.option(
    "--prompts",
    default="bloom",
    show_default=True,
    help="Prompt set: bloom, languages or code; without a tokenizer ids are drawn.",
)
@click.option("--steps", default=24, show_default=True, type=click.IntRange(1), help="Greedy tokens a prompt.")
@click.option(
    "--schemes",
    default="bf16,fp16",
    show_default=True,
    help="Dtypes to measure a tolerance for; '' for none. Of a checkpoint that quantises activations at run time, "
    "int8-dynamic (8-bit integers) or fp8 is what it declares, with its weights as they are stored.",
)
@click.option(
    "--add", is_flag=True, help="Measure these schemes only, for the reference that is there; the rest stays."
)
@click.option(
    "--calibrate",
    is_flag=True,
    help="Write no reference: run five fault-free ways or more of each scheme, and keep how far they spread.",
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
    by: str,
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

    Tolerances come from transformers on this machine's CPU, eager and sdpa, never from a device under test; those of
    quantisation schemes from the library that quantises. Its fp32 comes first and must pass, and a tolerance beyond
    twice what an emulation of its rounding gives (without one, beyond 32 roundings) is refused.

    A run finds a reference by the hash of the weights, so that models of one name have one each. An existing reference
    of the same weights that differs is overwritten only with --reason; with it, one of other weights that has MODEL's
    name is, too.

    With --stream the oracle says the same, and never holds more than blocks of a weight: each token is chosen by a pass
    over all weights in float32, and the last, full pass in float64 proves every choice and is what is kept. Run the
    same command again after an interruption, and it goes on at the layer where it was; the state (keys, values and
    hidden states of all prompts) is removed at the end. Tolerances then come from weights on disk, too.

    With --by transformers an engine is held against other software of the same family: faults that both share are not
    found, and every verdict says "not independent". It serves any model that transformers loads.

    \b
      genqual reference llama-tiny                     # seconds; the cache keeps it
      genqual reference ./bloom-176b --stream --schemes ''   # the fp32 oracle of a model larger than memory
      genqual reference ./bloom-176b --stream --add --schemes bf16
      genqual reference ./exotic --by transformers           # an architecture that the oracle does not know
    """
    if state is not None and not stream:
        raise BadInput("--state is where --stream keeps its state: give --stream, too")
    if state is not None and by == "transformers":
        raise BadInput("--state is where genqual's own oracle keeps its state; transformers has none: leave it out")
    chosen = _schemes(schemes, stream=stream)
    place = _place(out)
    spec = check_declared(weights.local(resolve(model)), chosen)
    say(f"{spec.name}: reading the weights")
    sha256 = weights.sha256(spec)
    # Two checkpoints may have one name: each gets a folder of its own, and is found there by the hash of its weights.
    config = weights.config(spec)
    target = index.target(place, spec.name, sha256, config, replace=bool(reason))
    with ExitStack() as until_written:  # what was streamed stays on disk till its reference does
        if add or calibrate:
            made = reference_file.read(target)
            references.check_weights(made, sha256)
            if not calibrate:
                announce(spec, [len(row) for row in made.prompts], made.steps, chosen, stream=stream, added=True)
        else:
            rows, prompts = asked_rows(spec, prompts)
            if not reason:
                reference_file.check_alike(target, rows, steps, independent=by == "oracle")
            announce(spec, [len(row) for row in rows], steps, chosen, stream=stream)
            say(f"{spec.name}: {WHO[by]} generates {steps} tokens after each of {len(rows)} prompts")
            facts: dict[str, Json] = {"prompts": prompts, "config": index.arithmetic(config)}
            oracle: Oracle
            if by == "transformers":
                oracle = until_written.enter_context(peer_oracle(spec, progress=say, stream=stream))
                facts |= peer_facts()
            elif stream:
                oracle = streaming = until_written.enter_context(streamed(spec, sha256, rows, steps, state))
                # Named after the oracle whose arithmetic it is: the reference is the same, whichever way it was made.
                facts["oracle"] = streaming.name
            else:
                oracle = _ours(spec)
            made = references.make(spec.name, sha256, oracle, rows, steps, facts=facts)
        if calibrate:
            calibrated(spec, made, chosen, target)
            return
        made = with_tolerances(spec, made, chosen, stream=stream, keep=partial(_keep, target, reason))
        reference_file.write(made, target, reason=reason)
        _wrote(spec, made, target, None if out else model)


def _wrote(spec: ModelSpec, made: Reference, target: Path, model: str | None) -> None:
    """Say what was written and, where a run finds it, what judges `model` by it."""
    distinct = len(np.unique(made.tokens))
    say(f"{spec.name}: wrote {target} ({made.rows} prompts x {made.steps} steps, {distinct} distinct tokens)")
    if model is not None:
        say(f"next, in a clone of genqual: pytest -m {processor().name} --model={shlex.quote(model)}")


def _keep(target: Path, reason: str | None, done: Reference, left: Sequence[str]) -> None:
    """Write what is `done` before the schemes `left`: an hour's tolerances are not lost with the one that failed."""
    with suppress(BadInput):  # another reference is there: what the command ends with is told, not this
        reference_file.write(done, target, reason=reason)
        kept = ", ".join(sorted(done.envelopes))
        say(f"wrote {target} with the tolerance of {kept}; --add --schemes {','.join(left)} measures the rest")


def asked_rows(spec: ModelSpec, prompts: str) -> tuple[list[list[int]], str]:
    """The tokens of the set `prompts`, and its name. A directory without a tokenizer is asked for drawn ids instead.

    As many rows as texts, of lengths that differ, because what is judged holds of any tokens. Raises BadInput on a
    tokenizer that is broken, and on a config.json that names no vocabulary.
    """
    if spec.source != "directory" or has_tokenizer(spec):
        return token_rows(spec, prompt_set(prompts).texts, max_tokens=MOST_PROMPT_TOKENS), prompts
    config = weights.config(spec)
    nested = config.get("text_config")
    vocabulary = config.get("vocab_size", nested.get("vocab_size") if isinstance(nested, dict) else None)
    if not isinstance(vocabulary, int):
        raise BadInput(
            f"model {spec.name}: no tokenizer.json in {spec.location}, and its config.json has no vocab_size to draw "
            "tokens from; copy the tokenizer.json there"
        )
    say(f"{spec.name}: no tokenizer.json, so its prompts are drawn token ids")
    drawn = synthetic_rows(vocabulary, rows=8, length=12, seed=1)
    return [row[: 5 + index] for index, row in enumerate(drawn)], "synthetic"


def _place(out: Path | None) -> Path:
    """The directory that references are written to, made if need be. Raises BadInput where it cannot be."""
    if out is None:
        return cache_dir() / "references"
    if out.exists() and not out.is_dir():
        raise BadInput(f"--out {out}: is a file; name a directory")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"--out {out}: cannot be made ({error.strerror}); name another directory") from error
    return out


def _ours(spec: ModelSpec) -> Oracle:
    """genqual's own oracle over the weights of `spec`. Where it has none BadInput names the other way."""
    config = weights.config(spec)
    if (reason := why_no_oracle(config, weights.lazily(spec))) is not None:
        if "--by transformers" in str(reason):
            raise reason
        raise BadInput(f"{reason}. Or take transformers' word, which is not independent: --by transformers")
    return oracle_for(config, weights.read(spec))  # weights that are missing or left over, transformers refuses, too


def _schemes(text: str, *, stream: bool) -> list[str]:
    chosen = [part.strip() for part in text.split(",") if part.strip()]
    if unknown := [scheme for scheme in chosen if scheme not in PRECISIONS]:
        known = f"unknown dtype (expected some of {', '.join(PRECISIONS)})."
        raise BadInput(f"--schemes {unknown[0]}: {known}{did_you_mean(unknown[0].lower(), PRECISIONS)}")
    check_runs(chosen, stream=stream)
    return chosen


def calibrated(spec: ModelSpec, made: Reference, schemes: Sequence[str], target: Path) -> None:
    """Judge fault-free runs of each scheme by the envelope of the others; write calibration.json and print them."""
    file = target / "calibration.json"
    found: dict[str, Json] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    attentions = check_fp32(spec, made, stream=False)
    for scheme in schemes:
        fault_free = fault_free_runs(spec, made, scheme, attentions=attentions)
        for others in (other_shapes, other_ways):
            fault_free |= others(spec, made, scheme, attention=attentions[0])
        runs = leave_one_out(made, scheme, fault_free)
        for one in runs:
            say(f"  {one.ratio:.3f} of the others' envelope{', ALARM' if one.alarm else ''}: {one.run}")
        click.echo(f"{spec.name} {summary(scheme, runs)}")
        found[scheme] = {
            "hardware": processor().identity().class_id,
            "runs": [one.as_json() for one in runs],
        }
        file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")  # scheme by scheme: an hour may end early
    say(f"{spec.name}: wrote {file}")
