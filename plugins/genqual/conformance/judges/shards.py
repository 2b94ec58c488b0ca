"""Judge parts of a whole: a vocabulary's shards, a dtype's drift, what really ran. Pure: NumPy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from genqual.cases import Json
from genqual.conformance.judgement import (
    ENVELOPE_FACTOR,
    FP32_LIMIT,
    MARGIN_SIGMAS,
    Judgement,
    between_runs,
    precision_mode_of,
)
from genqual.conformance.judges.logits import judge_scores
from genqual.conformance.judges.self_checks import claims
from genqual.conformance.oracle.core import F64
from genqual.conformance.references.data import Reference
from genqual.conformance.router_ties import MOST_EXCUSED, Excused, excused, near_cells, tie_margin
from genqual.conformance.tolerance import cell_errors
from genqual.dtypes import FORMATS
from genqual.engines.base import Scores

LEAST_DRIFT: Final = 0.3
"""Of the envelope: fault-free bf16 reads 0.89 to 1.06 of it, fp16 and TF32 passed off as bf16 read 0.13."""


def judge_drift(scores: Scores, reference: Reference | None, *, dtype: str) -> Judgement:
    """Judge whether `scores` drift from the oracle as far as their dtype does: no further, and no less.

    A run that is too exact did not run in the dtype that it declares, and its latency is not that dtype's.
    """
    found = judge_scores(scores, reference, dtype=dtype)
    if found.status != "pass" or found.ratio is None or found.lane == "fp32" or found.ratio >= LEAST_DRIFT:
        return found
    text = (
        f"{found.ratio:.3g} of the {dtype} envelope, where fault-free {dtype} reads 0.9 to 1.1 and the least is "
        f"{LEAST_DRIFT}: this is more exact than {dtype} can be, so something else ran."
    )
    return replace(found, status="fail", explanation=text)


def judge_shards(
    scores: Scores,
    whole: Scores,
    *,
    dtype: str,
    parts: int,
    limit: float | None,
    reference: Reference | None = None,
) -> Judgement:
    """Judge whether each of `parts` equal shares of the vocabulary is the same in both, and is ever among the best 16.

    Both with whole `logits`. The pooled number hides one damaged share among many, and projections cannot name it.
    `limit` on nrms of each share, in the spread of all logits; None, where nothing measured says it, is
    "no_reference". `reference` of the very tokens says where a router is near a tie: cells where one run took another
    expert there differ in every share, and are left out. More than half of them left out fails, as in `judge_same`.
    """
    shape = (whole.finite.shape[0], whole.finite.shape[1])
    if limit is None:
        text = (
            f"No envelope of {dtype} was measured on this model, so how far a share of its vocabulary may differ is "
            f"not known; add one from fault-free runs with `genqual reference MODEL --add --schemes {dtype}`, or run "
            "fp32."
        )
        return Judgement("no_reference", precision_mode_of(dtype), "logits", text, shape=shape)
    if scores.logits is None or whole.logits is None or scores.logits.shape != whole.logits.shape:
        return claims(["whole logits of one shape were wanted"], "", 0, dtype=dtype, shape=shape)
    a, b = _centred(scores.logits), _centred(whole.logits)
    spread = float(np.sqrt((b * b).mean()))
    parted = _parted(scores, whole, dtype, reference)
    if parted is not None and parted.too_many:
        most = f"{parted.sentence} Fault-free runs stay below {MOST_EXCUSED:.0%}"
        return claims([most], "", 0, dtype=dtype, shape=shape)
    if parted is not None:
        a, b = a[~parted.cells], b[~parted.cells]
    shares = np.array_split(np.arange(b.shape[-1]), parts)
    errors = [float(np.sqrt(((a[..., share] - b[..., share]) ** 2).mean())) / spread for share in shares]
    problems, worst = [], max(errors)
    for error, share in sorted(zip(errors, shares, strict=True), key=lambda pair: -pair[0]):
        if not error <= limit:
            problems.append(f"ids {share[0]} to {share[-1]} are off by nrms {error:.3g}, the limit is {limit:.3g}")
        if not np.isin(scores.top_ids, share).any() and np.isin(whole.top_ids, share).any():
            problems.append(f"none of the ids {share[0]} to {share[-1]} is ever among the best 16")
    said = f"{parts} shares of the vocabulary agree, the worst by nrms {worst:.3g}, limit {limit:.3g}"
    said += "" if parted is None else f"; {parted.sentence.rstrip('.')}"
    return claims(problems, said, scores.finite.size * parts, dtype=dtype, shape=shape)


def _parted(a: Scores, b: Scores, dtype: str, reference: Reference | None) -> Excused | None:
    """Where one of two runs took another expert at a near tie; None where no routers are known."""
    if reference is None or reference.router_margins is None:
        return None
    spread, steps = reference.pooled_spread, len(a.top_ids)
    envelope = reference.envelopes.get(dtype)
    tolerance = between_runs(envelope, spread, steps, dtype, FP32_LIMIT, ENVELOPE_FACTOR, MARGIN_SIGMAS)
    if tolerance is None:
        return None
    margin, errors = tie_margin(tolerance), cell_errors(a.projections, b.projections)
    near = near_cells(reference, margin)
    return excused(errors, tolerance.sigma, np.zeros(errors.shape, dtype=np.bool_), near, margin)


def share_limit(reference: Reference | None, dtype: str) -> float | None:
    """Limit on nrms of one share: twice what two runs of the whole may differ by, because it holds few ids.

    None for a scheme without an envelope of its own: that of another one says nothing of it.
    """
    if precision_mode_of(dtype) == "fp32":
        return float(2 * np.sqrt(2.0) * FP32_LIMIT)
    known = reference.envelopes.get(dtype) if reference else None
    return None if known is None else float(2 * np.sqrt(2.0) * known.nrms)


def judge_evidence(
    inspections: list[Mapping[str, Json]],
    parameters: list[int],
    *,
    dtype: str,
    ranks: int,
    total: int | None,
    graph: bool,
) -> Judgement:
    """Judge whether what each rank says of itself is what the case asks for: dtype, exact fp32, shards, graphs.

    `parameters` held by each rank; `total` of the whole model, None where it cannot be read.
    """
    problems = []
    for rank, found in enumerate(inspections):
        problems += _dtypes(rank, found, dtype)
        if dtype == "fp32" and found.get("fp32_exact") is False:
            problems.append(f"rank {rank} multiplies fp32 with less than fp32 (TF32 or bf16 inside)")
        if dtype == "fp32" and (allowed := _shortcuts(found)):
            problems.append(f"rank {rank} allows {allowed} for fp32: a kernel of another shape may take it")
        if found.get("operators") == {}:
            problems.append(f"rank {rank} called no operator at all in a pass")
        if found.get("placement") in ("cpu-offload", "disk-offload", "disk") and found.get("offloaded_tensors") == 0:
            problems.append(f"rank {rank} offloaded nothing, {found['placement']} was asked for")
        if graph and not _replayed(found):
            problems.append(f"rank {rank} never ran its graph")
        if ranks > 1 and found.get("all_reduce") == "none":
            problems.append(f"rank {rank} of {ranks} reduces nothing with the others")
    if total is not None and ranks > 1 and max(parameters) > 0.9 * total:
        problems.append(f"a rank holds {max(parameters)} of {total} weights: nothing is sharded")
    if total is not None and sum(parameters) < total:
        problems.append(f"all ranks together hold {sum(parameters)} of {total} weights")
    said = f"{len(inspections)} rank(s) ran in {dtype}, holding {', '.join(map(str, parameters))} weights"
    return claims(problems, said, len(inspections), dtype=dtype, tier="evidence")


def _dtypes(rank: int, found: Mapping[str, Json], dtype: str) -> list[str]:
    """What is wrong with the dtypes of a rank's weights: another than the declared one, but by the model's own rule."""
    held = found.get("dtypes")
    if dtype not in FORMATS or held is None:
        return []
    wanted = FORMATS[dtype].torch
    rule = found.get("dtype_rule")
    if not isinstance(rule, dict):
        return [] if held == [wanted] else [f"rank {rank} holds weights of {held}, {dtype} was declared"]
    wrong = rule.get("wrong")
    problems = [f"rank {rank} holds {one}" for one in wrong] if isinstance(wrong, list) else []
    if isinstance(held, list) and wanted not in held:
        problems.append(f"rank {rank} holds weights of {held}, {dtype} was declared")
    return problems


def judge_smaller(inspections: Sequence[Mapping[str, Json]], held: int, plain: int, *, scheme: str) -> Judgement:
    """Judge whether quantised weights take fewer bytes than 16-bit ones: those of the layers' linear matrices.

    Embeddings and heads are told apart, because a tied head that is quantised is a second matrix: of a small model it
    weighs more than its layers save. Of ranks that do not say, all `held` bytes are judged against `plain`.
    """
    problems, said = [], []
    for rank, found in enumerate(inspections):
        parts = found.get("matrices")
        if not isinstance(parts, dict):
            if held > 0.8 * plain:
                problems.append(f"{held} bytes of weights, where {plain} are held without {scheme}")
            said.append(f"{held} bytes of {plain}")
            break
        sizes = {name: (int(part["weights"]), int(part["bytes"])) for name, part in parts.items()}  # type: ignore
        count, stored = sizes["layers"]
        if not count:
            problems.append(f"rank {rank} holds no matrix of a linear layer, so that {scheme} quantises nothing")
        elif stored > 0.8 * 2 * count:
            problems.append(
                f"rank {rank} holds {stored} bytes for {count} weights of its layers' matrices, where {2 * count} are "
                f"held without {scheme}"
            )
        beside = ", ".join(f"{name} {size} in {bytes_}" for name, (size, bytes_) in sizes.items() if name != "layers")
        said.append(f"{stored} bytes for {count} weights of layers' matrices (weights in bytes beside: {beside})")
    return claims(problems, "; ".join(said), 1, dtype=scheme, tier="evidence")


def spread(inspections: Sequence[Mapping[str, Json]]) -> bool:
    """Whether ranks that chose their placement themselves (`auto`) spread layers over several devices; else, as asked.

    The host and the disk are no devices: what lies there is offloaded.
    """
    for found in inspections:
        places = found.get("device_map")
        if found.get("placement") == "auto" and isinstance(places, dict):
            return len({str(place) for place in places.values()} - {"cpu", "disk"}) > 1
    return True


def judge_fetched(bits: Judgement, same: Judgement, *, aligned: bool, same_weights: bool) -> Judgement:
    """Weights that are fetched for each pass against weights that stay: `bits` and, where those cannot be had, `same`.

    Other bits are no fault where some of the weights that stay lie at odd addresses (not `aligned`), if both groups
    hold the same weights.
    """
    if bits.passed or aligned:
        return bits
    if not same_weights:
        return replace(bits, explanation="The weights that are fetched back are others: their hashes differ.")
    return same


def aligned(evidence: Sequence[Mapping[str, Json]]) -> bool:
    """Whether all weights that lie in memory begin where an allocator would put them: then placement changes no bit.

    What an engine does not tell is taken for aligned: the stricter judge.
    """
    return not any(rank.get("unaligned") for rank in evidence)


def put_away(inspections: Sequence[Mapping[str, Json]]) -> bool:
    """Whether ranks that chose their placement themselves (`auto`) offloaded any weight; else, as asked."""
    return not any(found.get("placement") == "auto" and not found.get("offloaded_tensors") for found in inspections)


def _replayed(found: Mapping[str, Json]) -> bool:
    """Whether a rank that was asked for a graph or a static cache says that it used one, by what its kind counts."""
    kind = found.get("graphs", "compile")
    if kind == "static":
        return bool(found.get("cache_length"))
    return kind == "hpu" or (kind != "none" and bool(found.get("graph_hits")))  # Habana counts no replay


def _shortcuts(found: Mapping[str, Json]) -> str:
    """The settings of torch that would let fp32 products lose bits, as they stand on a rank; empty where none does."""
    tf32 = found.get("tf32")
    names = [f"TF32 in {where}" for where, on in tf32.items() if on] if isinstance(tf32, dict) else []
    precision = found.get("float32_matmul_precision", "highest")
    return " and ".join(names + ([] if precision == "highest" else [f"float32_matmul_precision={precision}"]))


def _centred(logits: NDArray[np.float32]) -> F64:
    wide = logits.astype(np.float64)
    return np.asarray(wide - wide.mean(axis=-1, keepdims=True))
