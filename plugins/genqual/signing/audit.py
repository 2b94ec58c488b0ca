"""Count again what a measurement says of itself, as MLPerf's compliance tests do. Pure: one record in, findings out.

Source: MLCommons inference, compliance TEST06: the first token streamed is the first token returned, a text ends at
its first end token, and the count of tokens is that of the text. The other sums are docs/performance.md's definitions.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import Final

from genqual.records.outputs import Outputs, tokens_sha256
from genqual.records.record import Record

_ROUNDING: Final = 1e-6  # of doubles that were added in another order; a changed sample is off by far more


def audit(record: Record) -> Iterator[tuple[str, str]]:
    """(check, what is wrong) of one measurement that ended well; nothing where all is consistent."""
    if record.kind != "measurement" or record.outcome.status not in ("ok", "accuracy_fail"):
        return
    outputs = record.outputs
    if outputs is None:
        yield "outputs", "the tokens of the timed runs were not kept, so nothing can be counted again"
        return
    yield from (("first token", flaw) for flaw in _first_tokens(outputs))
    yield from (("end of text", flaw) for flaw in _ends(outputs))
    yield from (("token count", flaw) for flaw in _counts(record, outputs))
    yield from (("tokens", flaw) for flaw in _hashes(outputs))
    yield from (("samples", flaw) for flaw in _sums(record, outputs))


def _first_tokens(outputs: Outputs) -> Iterator[str]:
    if outputs.streamed is None:
        return
    first = tuple(row[0] for row in outputs.rows)
    for run, streamed in enumerate(outputs.streamed):
        for row, (seen, returned) in enumerate(zip(streamed, first, strict=False)):
            if seen != returned:
                yield f"run {run}, row {row}: {seen} was streamed when TTFT was stamped, {returned} was returned"


def _ends(outputs: Outputs) -> Iterator[str]:
    if outputs.end_token is None:
        return
    for index, row in enumerate(outputs.rows):
        ends = [place for place, token in enumerate(row) if token == outputs.end_token]
        # What follows the end is padding: one other token, again and again, or nothing.
        rest = set(row[ends[0] + 1 :]) if ends else set()
        if len(ends) > 1 or len(rest) > 1:
            yield f"row {index}: {len(ends)} end tokens and {len(rest)} kinds of token after the first"


def _counts(record: Record, outputs: Outputs) -> Iterator[str]:
    workload = record.workload
    if workload.batch is not None and len(outputs.lengths) != workload.batch:
        yield f"{len(outputs.lengths)} rows in a batch of {workload.batch}"
    if workload.real_new_tokens is not None and sum(outputs.lengths) != workload.real_new_tokens:
        yield f"the rows have {sum(outputs.lengths)} tokens, the record says {workload.real_new_tokens}"
    for index, (row, length) in enumerate(zip(outputs.rows, outputs.lengths, strict=False)):
        end = outputs.end_token
        counted = row.index(end) + 1 if end is not None and end in row else len(row)
        if counted != length:
            yield f"row {index} has {counted} tokens, the record says {length}"
    if outputs.end_token is None and workload.new_tokens is not None:
        short = [index for index, length in enumerate(outputs.lengths) if length != workload.new_tokens]
        if short:
            yield f"no end token was set, yet rows {short[:5]} are not {workload.new_tokens} tokens long"


def _hashes(outputs: Outputs) -> Iterator[str]:
    whole = len(outputs.rows) == len(outputs.lengths)
    if whole and outputs.runs_sha256 and tokens_sha256(outputs.rows) != outputs.runs_sha256[0]:
        yield "the rows kept are not those that the hash of the first run is of"


def _sums(record: Record, outputs: Outputs) -> Iterator[str]:
    samples = {metric.name: metric.samples for metric in record.metrics}
    runs, batch, new = len(outputs.wall_s), record.workload.batch, record.workload.new_tokens
    for name in ("ttft", "tpot", "e2e", "tokens_per_s", "msec_per_token"):
        if samples.get(name) and len(samples[name]) != runs:
            yield f"{name} has {len(samples[name])} samples of {runs} runs"
            return
    if batch is None or new is None:
        return
    ttft, tpot, e2e = (samples.get(name, ()) for name in ("ttft", "tpot", "e2e"))
    first = _first_pieces(record, runs)
    formula = "ttft + (n - 1) x tpot" if set(first) == {1} else "ttft + (n - first piece) x tpot"
    counted = [a + (new - k) * b for a, b, k in zip(ttft, tpot, first, strict=False)]
    yield from _unlike(formula, counted, "e2e", e2e)
    rate = [batch * new / seconds for seconds in e2e if seconds > 0]
    yield from _unlike("batch x n / e2e", rate, "tokens_per_s", samples.get("tokens_per_s", ()))
    share = [1000 * seconds / (batch * new) for seconds in outputs.wall_s]
    yield from _unlike("1000 x wall / (batch x n)", share, "msec_per_token", samples.get("msec_per_token", ()))
    for run, (seconds, wall) in enumerate(zip(e2e, outputs.wall_s, strict=False)):
        if seconds > wall * (1 + _ROUNDING):
            yield f"run {run}: the last token came after {seconds} s, the call took {wall} s"


def _first_pieces(record: Record, runs: int) -> list[int]:
    """How many tokens arrived with the first one in each run; TPOT is of those after them."""
    told = record.labels.get("first_piece")
    try:
        found = json.loads(told) if told is not None else None
    except ValueError:
        found = None
    usable = isinstance(found, list) and len(found) == runs and all(type(one) is int and one > 0 for one in found)
    return found if usable and found is not None else [1] * runs


def _unlike(formula: str, ours: Sequence[float], name: str, theirs: Sequence[float]) -> Iterator[str]:
    for run, (mine, its) in enumerate(zip(ours, theirs, strict=False)):
        if not math.isclose(mine, its, rel_tol=_ROUNDING):
            yield f"run {run}: {formula} is {mine:.9g}, the sample of {name} is {its:.9g}"
