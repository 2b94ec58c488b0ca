"""The steps of `first_light`, the most valuable first: what each runs, and how long it may. Pure."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PYTEST: Final = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "--no-upload", "--tb=short")
_GENQUAL: Final = (sys.executable, "-m", "genqual.cli")

# How the decode step is recorded and replayed on each device; a processor compiles it.
_GRAPHS: Final = {"cuda": "transformers:graphs=cuda", "hpu": "transformers:graphs=hpu"}
_COMPILED: Final = "transformers-compiled"
_EIGHT_BITS: Final = {"cuda": "fp16,int8-weight,int8-dynamic,fp8"}
_OTHER_EIGHT_BITS: Final = "int8-weight,int8-dynamic"

NO_BASELINES: Final = "no-baselines"  # an empty directory of the state, so that no gate is asked

_CAPACITY: Final = """\
# Written by tests.hardware.first_light: the largest batch, found by running out of the device's memory.
description = "first light: the largest batch"

[performance]
batch_sizes = [1]
input_lengths = [512]
new_tokens = 4
largest_batch = 4096

[[performance.cases]]
engine = "transformers"
models = ["llama-30m"]
dtypes = ["bf16"]
"""


@dataclass(frozen=True, slots=True)
class Step:
    """One command. It is begun only where `least_s` seconds are left, and ended after `most_s`, or when time is up."""

    name: str
    answers: str
    command: tuple[str, ...]
    least_s: float
    most_s: float


def steps(device: str, state: Path, *, simulate: bool = False) -> list[Step]:
    """What is run on `device`, in this order; `state` takes records, logs and summaries."""

    def suite(name: str, *words: str) -> tuple[str, ...]:
        said = ("--simulate",) if simulate else ()
        return (*_PYTEST, f"--state-dir={state}", f"--summary-markdown={state / name}.md", *said, *words)

    def conformance(name: str, engine: str, models: str, dtypes: str) -> tuple[str, ...]:
        return suite(
            *(name, "-m", f"{device} and conformance", "--ranks", "1"),
            *("--engine", engine, "--model", models, "--dtype", dtypes),
        )

    def timed(name: str, engine: str) -> tuple[str, ...]:
        # No baseline is looked for: a gate's launches would take the time of what is asked here.
        return suite(
            *(name, "-m", f"{device} and performance", "--benchmark", f"--baselines={state / NO_BASELINES}"),
            *("--engine", engine, "--model", "llama-30m", "--dtype", "bf16", "--ranks", "1"),
            *("--batch-sizes", "1,4", "--input-lengths", "128", "--new-tokens", "32"),
        )

    graphs = _GRAPHS.get(device, _COMPILED)
    found = [
        Step("device", "what is here: cards, driver, packages, what is missing", (*_GENQUAL, "doctor"), 5, 60),
        Step(
            "eager",
            "is eager generation right, in fp32 and bf16",
            conformance("eager", "transformers", "llama-odd,bloom-tiny", "fp32,bf16"),
            *(20, 150),
        ),
        Step(
            "latency", "TTFT, TPOT, memory, MBU and MFU of eager generation", timed("latency", "transformers"), 15, 90
        ),
        Step(
            "faults",
            "are faults that are put in on this device found, and is nothing found in fault-free runs",
            (
                *(*_GENQUAL, "faults", "matrix", "--sample", "--device", device, "--models", "llama-tiny"),
                *("--dtypes", "fp32", "--engines", "transformers:1", "--store", str(state / "faults.jsonl")),
            ),
            *(30, 240),
        ),
        Step(
            "graphs",
            "is a decode step that is recorded and replayed right",
            conformance("graphs", graphs, "llama-odd", "bf16"),
            *(30, 180),
        ),
        Step("graphs-latency", "the same, timed", timed("graphs-latency", graphs), 20, 120),
        Step(
            "precisions",
            "are the other precisions right, each by its own envelope",
            conformance("precisions", "transformers", "llama-tiny", _EIGHT_BITS.get(device, _OTHER_EIGHT_BITS)),
            *(20, 150),
        ),
        Step(
            "node",
            "is the host fit: known answers, stragglers, its counters, its cards' counters, energy",
            (*_GENQUAL, "node", "--level", "1", "--json", str(state / "node.json")),
            *(70, 120),
        ),
    ]
    if simulate:  # the stand-in records no graph, and its tensors cannot be quantised in place
        found = [step for step in found if step.name not in ("graphs", "graphs-latency", "precisions")]
    if device == "cuda":
        found += [
            Step(
                "compiled",
                "is Inductor's decode step right",
                conformance("compiled", _COMPILED, "llama-odd", "bf16"),
                *(30, 180),
            )
        ]
    if device in ("cuda", "hpu", "xpu") and not simulate:  # a simulated card has no memory that ends
        profile = str(state / "capacity.toml")
        found += [
            Step(
                "out-of-memory",
                "does running out of the device's memory end as a number, and does the next request work",
                suite("out-of-memory", "-m", f"{device} and performance", "--benchmark", f"--profile={profile}"),
                *(20, 90),
            )
        ]
    return [
        *found,
        Step(
            "baseline",
            "launches of a first baseline, to gate the next run by",
            (
                *(*_GENQUAL, "rebase", "--quick", "--device", device, "--model", "llama-30m", "--dtype", "bf16"),
                *("--engine", "transformers", "--metric", "tpot", "--batch-sizes", "1", "--input-lengths", "128"),
                *("--state-dir", str(state), "--out", str(state / "new-baselines"), "--author", "first light"),
            ),
            *(60, 600),
        ),
    ]


def files(state: Path) -> dict[Path, str]:
    """What the steps read, to be written first."""
    return {state / "capacity.toml": _CAPACITY}
