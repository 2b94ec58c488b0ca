"""`genqual bisect`: which layer of an engine first leaves the oracle, one row of tokens through both."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import click

from genqual.cases import Case, Json
from genqual.conformance import bisect as places
from genqual.conformance.oracle.core import CausalOracle
from genqual.conformance.oracle.registry import oracle_for, why_no_oracle
from genqual.devices.registry import device, processor
from genqual.errors import BadInput
from genqual.faults import fault
from genqual.models import weights
from genqual.models.prompts import prompt_set, token_rows
from genqual.models.registry import resolve
from genqual.models.spec import ModelSpec
from genqual.ranks.client import Generator
from genqual.ranks.group_spec import plan
from genqual.ranks.pool import Pool


@click.command("bisect")
@click.argument("model")
@click.option("--engine", "engine_name", default="transformers", show_default=True)
@click.option("--dtype", default="fp32", show_default=True)
@click.option("--device", "device_name", default=lambda: processor().name, show_default="this host's processor")
@click.option("--ranks", default=1, show_default=True, type=click.IntRange(1))
@click.option("--tokens", help="Ids of the row, with commas between.  [default: the first BLOOM prompt]")
@click.option("--fault", "fault_name", help="Put this fault in first: to see what the command says of it.")
def bisect(
    model: str, engine_name: str, dtype: str, device_name: str, ranks: int, tokens: str | None, fault_name: str | None
) -> None:
    """Compare the hidden states of MODEL, layer by layer, with genqual's own float64 oracle.

    Names the first layer that is off by more than rounding in the dtype: where to look after a failed verdict, whose
    paragraph gives the smallest example to pass as --tokens. Exits with 1 when a layer leaves.
    """
    places.allowed(dtype)  # what cannot be said is said before the ranks start
    spec = weights.local(resolve(model))
    if tokens is None:
        row = token_rows(spec, prompt_set("bloom").texts[:1], max_tokens=24)[0]
    else:
        try:
            row = [int(token) for token in tokens.split(",")]
        except ValueError:
            raise BadInput(f"--tokens {tokens!r}: write ids with commas between, as 5,17,3") from None
    oracle = cast(CausalOracle, oracle_for(_config(spec), weights.read(spec)))
    if not row or not 0 <= min(row) <= max(row) < oracle.vocabulary:
        raise BadInput(f"--tokens {tokens}: ids from 0 to {oracle.vocabulary - 1} are wanted, the model's vocabulary")
    with started(Case(device_name, engine_name, model, dtype, ranks)) as generator:
        if fault_name is not None:
            known = fault(fault_name)
            with generator.with_fault(known.entry, known.params):
                states, logits = generator.states(row)
        else:
            states, logits = generator.states(row)
    steps = places.compare(states, logits, oracle, row, dtype)
    bad = places.first_bad(steps)
    for step in steps:
        click.echo(f"  {step.place:<16} {step.error:9.2e}{'   <- first' if step is bad else ''}")
    click.echo(places.said(steps, dtype))
    sys.exit(bad is not None)


def _config(spec: ModelSpec) -> dict[str, Json]:
    """Its configuration. Raises BadInput where genqual has no oracle of it, whatever its reference was made by."""
    config = weights.config(spec)
    if (reason := why_no_oracle(config, weights.lazily(spec))) is not None:
        why = str(reason).partition("; make this model's reference")[0]
        raise BadInput(
            f"model {spec.name}: bisect compares with genqual's own oracle, layer by layer, and there is none of this "
            f"model ({why}); compare two engines instead, or two versions of one, by what each one's verdicts say"
        )
    return config


@contextmanager
def started(case: Case) -> Iterator[Generator]:
    """A group of `case`, ended afterwards. Raises BadInput where its device is absent."""
    place = device(case.device)
    presence = place.probe()
    if not presence.present:
        raise BadInput(f"--device {case.device}: absent; {presence.probe} found {presence.found}")
    with tempfile.TemporaryDirectory(prefix="genqual-") as logs:
        pool = Pool(1, progress=lambda text: click.echo(text, err=True))
        try:
            yield Generator(pool, plan(case, Path(logs)))
        finally:
            pool.close_all()
