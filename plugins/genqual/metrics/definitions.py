"""What each metric means, how tables show it and how the gate judges it. Pure: no imports of ours.

Another package adds one by the entry point group `genqual.metrics`: see `metrics.registry`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal

Better = Literal["lower", "higher"]
Section = Literal["decode", "prefill", "throughput", "load", "memory"]

_PER_RUN: Final = "median over repetitions"
_GAPS: Final = "over the gaps of all repetitions (linear interpolation)"


@dataclass(frozen=True, slots=True)
class GateRule:
    """How the gate judges a metric: measured by `section` of a launch, at one workload, asked for by `test`.

    `tolerance` None: 5 % on one rank, 10 % on several. `stepped`: a launch has many steps, each beside a reference
    step. `exact`: launches of one program give one number, within `slack`, and no part of alpha is spent on it.
    """

    section: Section
    workload: Literal["smallest", "largest", "first"]
    test: str
    tolerance: float | None = None
    stepped: bool = True
    exact: bool = False
    slack: float = 0.0
    less_and_more: tuple[str, str] = ("faster", "slower")


@dataclass(frozen=True, slots=True)
class Column:
    """How tables show a metric, which records hold in SI units: `label` with `unit`, the value times `scale`."""

    label: str
    unit: str = ""
    scale: float = 1.0
    summary: bool = True  # a row of the terminal's table


@dataclass(frozen=True, slots=True)
class Definition:
    """A metric as a table shows it: `title` is the field's name, `formula` uses the words of docs/performance.md.

    `compute`, for metrics of other packages: from the step times of the repetitions, (repetitions, new tokens) seconds
    since the call began, and the workload, to one sample a repetition.
    """

    name: str
    title: str
    unit: str
    statistic: str
    better: Better
    formula: str
    meaning: str
    gate: GateRule | None = None
    column: Column | None = None
    compute: Callable[[Any, Any], Any] | None = None


_ALL: Final = (
    Definition(
        "ttft",
        "time to first token",
        "s",
        _PER_RUN,
        "lower",
        "step[0]",
        "From the start of the call until the first new token of every row is on the host: prefill and one choice.",
        GateRule("prefill", "smallest", "test_time_to_first_token"),
        Column("TTFT", "ms", 1e3),
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
        GateRule("decode", "smallest", "test_time_per_output_token"),
        Column("TPOT", "ms", 1e3),
    ),
    Definition(
        "itl_p50",
        "inter-token latency, median",
        "s",
        f"50th percentile {_GAPS}",
        "lower",
        "p50 of step[t] - step[t-1]",
        "The gap that half of all tokens wait at most. The first token is TTFT and no gap.",
        column=Column("ITL p50", "ms", 1e3, summary=False),
    ),
    Definition(
        "itl_p90",
        "inter-token latency, 90th percentile",
        "s",
        f"90th percentile {_GAPS}",
        "lower",
        "p90 of step[t] - step[t-1]",
        "The gap that nine tokens in ten wait at most.",
        column=Column("ITL p90", "ms", 1e3, summary=False),
    ),
    Definition(
        "itl_p99",
        "inter-token latency, 99th percentile",
        "s",
        f"99th percentile {_GAPS}",
        "lower",
        "p99 of step[t] - step[t-1]",
        "The stutter that a reader notices. Of fewer than 100 gaps it is close to the maximum, and its note says so.",
        column=Column("ITL p99", "ms", 1e3, summary=False),
    ),
    Definition(
        "e2e",
        "end-to-end latency",
        "s",
        _PER_RUN,
        "lower",
        "step[n-1] = TTFT + (n - 1) x TPOT",
        "From the start of the call until the last new token of every row is on the host.",
        column=Column("end to end", "ms", 1e3, summary=False),
    ),
    Definition(
        "tokens_per_s",
        "output token throughput",
        "tokens/s",
        _PER_RUN,
        "higher",
        "batch x n / step[n-1]",
        "New tokens of all rows a second of end-to-end latency, the prefill's time included.",
        GateRule("throughput", "largest", "test_output_tokens_per_second"),
        Column("tokens/s"),
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
        column=Column("msec/token"),
    ),
    Definition(
        "load_s",
        "load time",
        "s",
        "the slowest rank, once",
        "lower",
        "max over ranks of Loaded.load_s",
        "From the request to load until the model can be called. Whether the page cache was cold is not known here.",
        GateRule("load", "first", "test_load_time", tolerance=0.30, stepped=False),
        Column("load", "s", summary=False),
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
        # 2 %: what an allocator and a Python heap differ by between launches of the same program.
        GateRule(
            "memory",
            "largest",
            "test_peak_memory",
            stepped=False,
            exact=True,
            slack=0.02,
            less_and_more=("less memory", "more memory"),
        ),
        Column("memory", "MiB", 2.0**-20),
    ),
    Definition(
        "energy_per_token",
        "energy per output token",
        "J/token",
        "all repetitions together, once",
        "lower",
        "joules of the timed runs / (repetitions x batch x n)",
        "What the processors' packages (RAPL) or the cards in use (NVML, HLML) took in the timed runs, prefill "
        "included, nothing subtracted for idling. No number where counter and sampled power differ by more than 2 %.",
        column=Column("energy", "J/token", summary=False),
    ),
    Definition(
        "mbu",
        "model bandwidth utilisation (decode)",
        "1",
        _PER_RUN,
        "higher",
        "(weight bytes + KV bytes) / (TPOT x measured bandwidth)",
        "Share of the read bandwidth, measured in the same run, that a decode step needs at least. Sums over ranks.",
        column=Column("MBU", "%", 1e2),
    ),
    Definition(
        "mfu",
        "model FLOP/s utilisation (prefill)",
        "1",
        _PER_RUN,
        "higher",
        "2 x parameters x batch x input length / (TTFT x measured GEMM FLOP/s)",
        "Share of the GEMM speed, measured in the same run and dtype, that the prefill reaches. Sums over ranks.",
        column=Column("MFU", "%", 1e2),
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
