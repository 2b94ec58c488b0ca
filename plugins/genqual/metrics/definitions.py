"""What each metric means, by the field's standard name; for docs, `--help` and records. Pure: no imports of ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

Better = Literal["lower", "higher"]

_PER_RUN: Final = "median over repetitions"
_GAPS: Final = "over the gaps of all repetitions (linear interpolation)"


@dataclass(frozen=True, slots=True)
class Definition:
    """A metric as a table shows it: `title` is the field's name, `formula` uses the words of docs/performance.md."""

    name: str
    title: str
    unit: str
    statistic: str
    better: Better
    formula: str
    meaning: str


_ALL: Final = (
    Definition(
        "ttft",
        "time to first token",
        "s",
        _PER_RUN,
        "lower",
        "step[0]",
        "From the start of the call until the first new token of every row is on the host: prefill and one choice.",
    ),
    Definition(
        "tpot",
        "time per output token, excluding the first",
        "s",
        _PER_RUN,
        "lower",
        "(step[n-1] - step[0]) / (n - 1)",
        "Mean time of a decode step of one run. Does not exist for a run of one token. Where k tokens arrived with the "
        "first, over the n - k after them.",
    ),
    Definition(
        "itl_p50",
        "inter-token latency, median",
        "s",
        f"50th percentile {_GAPS}",
        "lower",
        "p50 of step[t] - step[t-1]",
        "The gap that half of all tokens wait at most. The first token is TTFT and no gap.",
    ),
    Definition(
        "itl_p90",
        "inter-token latency, 90th percentile",
        "s",
        f"90th percentile {_GAPS}",
        "lower",
        "p90 of step[t] - step[t-1]",
        "The gap that nine tokens in ten wait at most.",
    ),
    Definition(
        "itl_p99",
        "inter-token latency, 99th percentile",
        "s",
        f"99th percentile {_GAPS}",
        "lower",
        "p99 of step[t] - step[t-1]",
        "The stutter that a reader notices. Of fewer than 100 gaps it is close to the maximum, and its note says so.",
    ),
    Definition(
        "e2e",
        "end-to-end latency",
        "s",
        _PER_RUN,
        "lower",
        "step[n-1] = TTFT + (n - 1) x TPOT",
        "From the start of the call until the last new token of every row is on the host.",
    ),
    Definition(
        "tokens_per_s",
        "output token throughput",
        "tokens/s",
        _PER_RUN,
        "higher",
        "batch x n / step[n-1]",
        "New tokens of all rows a second of end-to-end latency, the prefill's time included.",
    ),
    Definition(
        "msec_per_token",
        "msec per token, as in the BLOOM posts",
        "ms",
        _PER_RUN,
        "lower",
        "1000 x wall / (batch x n)",
        "The whole call's wall time shared among all new tokens of all rows: not TPOT, it falls as the batch grows. "
        "The posts' scripts also counted tokenising and padding after the end of a text; here neither is in it.",
    ),
    Definition(
        "load_s",
        "load time",
        "s",
        "the slowest rank, once",
        "lower",
        "max over ranks of Loaded.load_s",
        "From the request to load until the model can be called. Whether the page cache was cold is not known here.",
    ),
    Definition(
        "peak_memory",
        "peak memory",
        "B",
        "the rank that used most",
        "lower",
        "max over ranks of Memory.peak",
        "Most memory held at once while generating, weights included: of the device, or resident host memory on a CPU, "
        "without the mapped files of programs and libraries and what imported software holds.",
    ),
    Definition(
        "mbu",
        "model bandwidth utilisation (decode)",
        "1",
        _PER_RUN,
        "higher",
        "(weight bytes + KV bytes) / (TPOT x measured bandwidth)",
        "Share of the read bandwidth, measured in the same run, that a decode step needs at least. Sums over ranks.",
    ),
    Definition(
        "mfu",
        "model FLOP/s utilisation (prefill)",
        "1",
        _PER_RUN,
        "higher",
        "2 x parameters x batch x input length / (TTFT x measured GEMM FLOP/s)",
        "Share of the GEMM speed, measured in the same run and dtype, that the prefill reaches. Sums over ranks.",
    ),
)

DEFINITIONS: Final[Mapping[str, Definition]] = MappingProxyType({one.name: one for one in _ALL})
"""Every metric by name, in the order in which tables show them."""


LARGEST_BATCH: Final = Definition(
    "largest_batch",
    "largest batch that fits",
    "rows",
    "by bisection, once a case",
    "higher",
    "max batch without running out of memory",
    "Rows of the workload's lengths that are generated at once before memory runs out, to the row. A search "
    "that the profile capped says so in its note.",
)

INSTANCES: Final = (
    Definition(
        "instances_tokens_per_s",
        "tokens a second of all instances",
        "1/s",
        _PER_RUN,
        "higher",
        "sum over instances of batch x new tokens / e2e",
        "Independent instances that begin each run together, each on cores of its own: what the host does in all.",
    ),
    Definition(
        "instances_tpot",
        "TPOT of the slowest instance",
        "s",
        "median a repetition of each instance, the largest",
        "lower",
        "max over instances of TPOT",
        "What a user of the slowest of several instances waits for a token; the samples are one an instance.",
    ),
)

EVERY: Final[Mapping[str, Definition]] = MappingProxyType(
    {**DEFINITIONS, **{one.name: one for one in (LARGEST_BATCH, *INSTANCES)}}
)
"""The metrics of a measured workload, and those of the search for a batch and of several instances."""


def table() -> str:
    """The definitions as plain text, one metric a paragraph, for `--help`."""
    width = max(len(name) for name in DEFINITIONS)
    return "\n".join(f"{d.name:<{width}}  {d.title} [{d.unit}] = {d.formula}" for d in _ALL)
