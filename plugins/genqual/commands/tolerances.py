"""Tolerances of a reference: fp32 first, then each scheme, each held to what its rounding alone would give."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import psutil

from genqual.commands.fault_free import fault_free_runs, fp32_run
from genqual.commands.rates import measured
from genqual.commands.streaming import say
from genqual.conformance.emulation import emulated_nrms
from genqual.conformance.judgement import Judgement
from genqual.conformance.judges.logits import judge_scores
from genqual.conformance.oracle.registry import architecture_of, is_contradiction, supported, why_no_oracle
from genqual.conformance.references import make as references
from genqual.conformance.references.cost import Cost, Rates, Size, cost
from genqual.conformance.references.make import Reference
from genqual.conformance.tolerance import check_size
from genqual.engines.base import Scores
from genqual.errors import BadInput, Unsupported
from genqual.models import weights
from genqual.models.declared_inputs import declared_in
from genqual.models.files import weight_files
from genqual.models.impossible import impossible
from genqual.models.quantised.inputs import check_precision
from genqual.models.spec import ModelSpec
from genqual.models.writes_text import why_no_text
from genqual.ranks.on_cpu import held_in_memory


def check_declared(spec: ModelSpec, schemes: Sequence[str]) -> ModelSpec:
    """`spec` itself. Raises BadInput where it continues no text, and where its configuration can be no model's.

    Also where it quantises activations otherwise than `schemes` say, with the right scheme.
    """
    config = weights.config_if_here(spec) or {}
    if (other := why_no_text(config) or impossible(config)) is not None:
        raise BadInput(f"model {spec.location}: {other}")
    if (reason := why_no_oracle(config)) is not None and is_contradiction(reason):
        raise BadInput(f"model {spec.location}: {reason}")
    for scheme in schemes:
        try:
            check_precision(declared_in(spec, scheme).values(), scheme, spec.name)
        except Unsupported as reason:
            raise BadInput(f"--schemes {scheme}: {reason}") from reason
    return spec


def announce(
    spec: ModelSpec, lengths: Sequence[int], steps: int, schemes: Sequence[str], *, stream: bool, added: bool = False
) -> None:
    """Say what the reference will take, before anything long begins; `added`: only the tolerances."""
    found = estimate(spec, lengths, steps, schemes, stream=stream)
    if found is not None:
        takes = replace(found[0], oracle_s=0.0) if added else found[0]
        say(f"{spec.name}: {takes.sentence()}; estimates, from rates measured on this host just now")


def estimate(
    spec: ModelSpec, lengths: Sequence[int], steps: int, schemes: Sequence[str], *, stream: bool
) -> tuple[Cost, Rates] | None:
    """The cost of a reference of `spec`, and the rates that it is of; None where its size cannot be read here."""
    size = size_of(spec)
    if size is None:
        return None
    files = weight_files(spec)
    rates = measured(files[0] if files else None)
    stored = sum(file.stat().st_size for file in files)
    cached = stored < psutil.virtual_memory().available
    kept = held_in_memory()
    found = cost(size, rates, lengths, steps, schemes, stream=stream, stored=stored, cached=cached, kept=kept)
    return found, rates


def size_of(spec: ModelSpec) -> Size | None:
    """By the oracle's declaration; of an architecture without one, by its count of weights."""
    try:
        config = weights.config(spec)
    except BadInput:
        return None
    try:
        return Size.of(architecture_of(config).declared(config, weights.lazily(spec))[0])
    except BadInput:
        pass
    try:
        count = weights.count(spec)
    except BadInput:
        return None

    def number(*names: str) -> int:
        values = [config.get(name) for name in names]
        return next((value for value in values if isinstance(value, int)), 1)

    return Size.of_count(
        count,
        layers=number("num_hidden_layers", "n_layer", "n_layers"),
        hidden=number("hidden_size", "n_embd", "d_model"),
        vocabulary=number("vocab_size"),
    )


def with_tolerances(
    spec: ModelSpec,
    made: Reference,
    schemes: Sequence[str],
    *,
    stream: bool,
    keep: Callable[[Reference, Sequence[str]], None] = lambda done, left: None,
) -> Reference:
    """`made` with the envelope of each of `schemes`, of fault-free runs of transformers on this host.

    Raises BadInput when transformers' fp32 does not pass by `made`, and on an envelope that rounding does not explain.
    Where a later one fails, or the run is interrupted, `keep` is given what is done, and the schemes that are not.
    """
    if not schemes:
        return made
    attentions = check_fp32(spec, made, stream=stream)
    for number, scheme in enumerate(schemes):
        try:
            runs = fault_free_runs(spec, made, scheme, attentions=attentions, stream=stream)
            more = references.with_envelope(made, scheme, runs)
            emulated = None if stream else _emulated(spec, more, scheme)
            say(f"{spec.name}: {check_size(scheme, more.envelopes[scheme].nrms, emulated)}")
        except BaseException:
            if number:
                keep(made, schemes[number:])
            raise
        made = more
    return made


def check_fp32(spec: ModelSpec, made: Reference, *, stream: bool) -> tuple[str, ...]:
    """The attentions that may make a tolerance. Raises BadInput unless transformers' fp32 passes by `made`.

    Runs of a narrow dtype that are wrong together widen its tolerance till nothing is found; fp32 has no such room.
    """
    say(f"{spec.name}: fp32 first: what does not pass there has no tolerance in another dtype")

    def judged(scores: Scores) -> Judgement:
        return judge_scores(scores, made, dtype="fp32")

    scores, passes, attentions = fp32_run(spec, made, lambda scores: judged(scores).passed, stream=stream)
    found = judged(scores)
    if not found.passed:
        unknown = "Either the config.json is not that of the weights, or transformers or the oracle is wrong about it"
        raise BadInput(
            f"model {spec.name}: transformers' own fp32 does not pass by this reference, so runs of a narrower dtype "
            f"would make a tolerance of a fault: {found.explanation} {passes or unknown}; a reference without "
            "tolerances can be made for verdicts in fp32, which will then fail where transformers is wrong: "
            "--schemes ''"
        )
    say(f"{spec.name}: fp32 passes: nrms {found.nrms:.3g}" if found.nrms is not None else f"{spec.name}: fp32 passes")
    return attentions


def _emulated(spec: ModelSpec, made: Reference, scheme: str) -> float | None:
    """What an emulation of `scheme` reads; None where the oracle cannot compute this checkpoint."""
    config = weights.config(spec)
    if config.get("model_type") not in supported():
        return None
    try:
        return emulated_nrms(config, weights.lazily(spec), made, scheme, declared_in(spec, scheme))
    except BadInput:  # a reference by transformers, of a configuration that the oracle refuses
        return None
