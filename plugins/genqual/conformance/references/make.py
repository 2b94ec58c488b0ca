"""Make, keep and check references: what a verdict is judged by. Pure but for the files that are read and written."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

import genqual
from genqual.cases import Json
from genqual.conformance.judges.logits import judge_scores
from genqual.conformance.oracle.core import F64
from genqual.conformance.oracle.registry import Oracle, source_sha256, supported
from genqual.conformance.references.data import Reference
from genqual.conformance.references.file import history, read, write
from genqual.conformance.router_ties import excuse_of
from genqual.conformance.scores import scores_of
from genqual.conformance.tolerance import RoundingEnvelope, measure
from genqual.engines.base import Scores
from genqual.errors import BadInput

_LOOK: Final = "look at its weights, and at the values of its config.json"

__all__ = ["Reference", "RoundingEnvelope", "check_weights", "history", "make", "read", "with_envelope", "write"]


def make(
    model: str,
    weights_sha256: str,
    oracle: Oracle,
    prompts: Sequence[Sequence[int]],
    steps: int,
    *,
    facts: Mapping[str, Json] | None = None,
) -> Reference:
    """The reference of `prompts` (rows of ids) over `steps` greedy tokens each; no envelope yet.

    `facts` adds to what is kept about the generator (versions of an oracle that is not ours). Raises BadInput when
    there is nothing to generate, logits are not finite, or the oracle's cached and full passes disagree.
    """
    if not prompts or steps < 1:
        raise BadInput(f"{len(prompts)} prompts, {steps} steps: a reference needs at least one of each")
    parts: list[Scores] = []
    spreads, routers = [], []
    for row, prompt in enumerate(prompts):
        with np.errstate(all="ignore"):  # what is not finite is told below, by its prompt
            tokens = oracle.greedy(prompt, steps)
        ids = [*prompt, *tokens[:-1]]
        traced = getattr(oracle, "traced", None)  # an oracle of others' making may know nothing of routers
        with np.errstate(all="ignore"):
            whole, margins = traced(ids) if traced else (oracle.logits(ids), None)
        logits = whole[len(prompt) - 1 :]
        routers.append(margins)
        if not np.isfinite(logits).all():
            raise BadInput(f"the oracle's logits of {model} are not finite on prompt {row}: {_LOOK}")
        if not logits.std(axis=-1).all():
            raise BadInput(f"the oracle's logits of {model} are all the same on prompt {row}: {_LOOK}")
        best = logits.argmax(axis=-1)
        if (tokens != best).any():
            step = int((tokens != best).argmax())
            by = logits[step, best[step]] - logits[step, tokens[step]]
            raise BadInput(
                f"prompt {row}, step {step}: the oracle's cached pass chose {tokens[step]}, its full pass "
                f"{best[step]} by {by:.3g}; below 1e-9 it is a tie, where greedy is not defined: drop this prompt; "
                f"above, the oracle is wrong"
            )
        parts.append(scores_of(logits[:, None], tokens[None]))
        spreads.append(logits.std(axis=-1))
    ours = oracle.independent and oracle.architecture in supported()
    top_ids = np.concatenate([part.top_ids for part in parts], axis=1)
    top_logits = np.concatenate([part.top_logits for part in parts], axis=1)
    return Reference(
        router_margins=_padded(routers),
        model=model,
        weights_sha256=weights_sha256,
        vocabulary=oracle.vocabulary,
        prompts=tuple(tuple(int(i) for i in prompt) for prompt in prompts),
        tokens=top_ids[..., 0].copy(),
        margins=top_logits[..., 0] - top_logits[..., 1],
        top_ids=top_ids,
        top_logits=top_logits,
        logsumexp=np.concatenate([part.logsumexp for part in parts], axis=1),
        spread=np.stack(spreads, axis=1),
        projections=np.concatenate([part.projections for part in parts], axis=1),
        independent=oracle.independent,
        generator={
            "genqual": genqual.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
            "oracle": type(oracle).__name__,
            "architecture": oracle.architecture,
            "oracle_sha256": source_sha256(oracle.architecture) if ours else None,
            **(facts or {}),
        },
    )


def with_envelope(reference: Reference, scheme: str, fault_free: Mapping[str, Scores]) -> Reference:
    """`reference` with the envelope of `scheme` ("bf16", "fp16", "int8-..."), replacing one it had.

    `honest` maps what was run, with its software versions, to its scores forced on the reference's tokens; two runs
    that differ in kernels or cache are wanted. Raises BadInput when they cannot be honest: see `envelope.measure`,
    and each must pass the judgement that it founds.
    """
    if scheme == "fp32":
        raise BadInput("fp32 has no envelope: its limit is the same for every model, see docs/judge.md")
    envelope = measure(reference.projections, reference.spread, fault_free, excuse_of(reference))
    made = replace(reference, envelopes={**reference.envelopes, scheme: envelope}, sha256="")
    for name, scores in fault_free.items():
        verdict = judge_scores(scores, made, dtype=scheme)
        if not verdict.passed:
            raise BadInput(f"fault-free run {name!r} does not pass by its own envelope: {verdict.explanation}")
    return made


def _padded(routers: Sequence[F64 | None]) -> NDArray[np.float32] | None:
    """Margins (tokens, layers) of each row as (rows, positions, layers), infinite behind a row's end."""
    rows = [margins for margins in routers if margins is not None]
    if len(rows) < len(routers):
        return None
    out = np.full((len(rows), max(map(len, rows)), rows[0].shape[1]), np.inf, dtype=np.float32)
    for row, margins in enumerate(rows):
        out[row, : len(margins)] = margins
    return out


def check_weights(reference: Reference, weights_sha256: str) -> None:
    """Raises BadInput, naming both hashes, when the reference was made from other weights."""
    if weights_sha256 != reference.weights_sha256:
        raise BadInput(
            f"{reference.model}: the reference was made from weights {reference.weights_sha256}, those under test are "
            f"{weights_sha256}; use that reference's weights, or make a reference of these"
        )
