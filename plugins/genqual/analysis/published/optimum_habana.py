"""What optimum-habana's own scripts and tests measured, as cited records. Reads JSON; measures nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from genqual import digest
from genqual.errors import BadInput
from genqual.records.fields import Engine, Model, Precision, Provenance, Software, Workload
from genqual.records.metric import Metric
from genqual.records.record import Record
from genqual.records.system import System

REPOSITORY: Final = "https://github.com/huggingface/optimum-habana"
DOUBTS: Final = (
    "one aggregate number, without samples: no interval, and no gate reads it",
    "the output was compared as text on one card only, or not at all",
)
_CARD: Final = {"gaudi1": "gaudi", "gaudi2": "gaudi2", "gaudi3": "gaudi3"}
_BOOL: Final = r"(?:True|False)"
# What stands behind the model's name in a test's id, by test; the name itself holds dashes and numbers.
_PARAMETERS: Final = {
    "bf16_1x": rf"-(?P<batch>\d+)(?:-{_BOOL})+",
    "deepspeed": r"-(?P<ranks>\d+)-(?P<batch>\d+)",
    "fp8": rf"-(?P<ranks>\d+)-(?P<batch>\d+)-{_BOOL}-(?P<input>\d+)-(?P<new>\d+)(?:-{_BOOL})?",
    "gptq": rf"-(?P<ranks>\d+)-(?P<batch>\d+)-{_BOOL}-(?P<input>\d+)-(?P<new>\d+)",
    "awq": rf"-(?P<ranks>\d+)-(?P<batch>\d+)-{_BOOL}-(?P<input>\d+)-(?P<new>\d+)",
    "torch_compile": "",
    "torch_compile_distributed": "",
}
_FIXED: Final = {"torch_compile_distributed": {"ranks": "8"}}
_DTYPE: Final = {"fp8": "fp8"}


@dataclass(frozen=True, slots=True)
class Imported:
    """Records, and what was left out: (test id or field, why)."""

    records: list[Record] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)


def results_json(
    path: Path, *, card: str, model: str, dtype: str, ranks: int, batch: int, new_tokens: int, input_length: int | None
) -> Record:
    """One run of run_generation.py, from its `results.json`, which holds no word of how it was run: say it here.

    Raises BadInput where the file is no such thing. The rest token latency becomes a metric of its own name: only its
    first token was synchronised, so it is the time of dispatch, never TPOT.
    """
    data, text = _json(path)
    wanted = ("throughput", "avg_first_token_latency", "avg_rest_token_latency", "avg_e2e_latency")
    missing = [name for name in wanted if not _number(data.get(name))]
    if missing:
        raise BadInput(f"{path}: no number for {', '.join(missing)}; this is no results.json of run_generation.py")
    seconds = {name: float(data[name]) for name in wanted}
    metrics = (
        _metric("tokens_per_s", "tokens/s", seconds["throughput"], "higher", "iterations x batch x new tokens / wall"),
        _metric("first_token", "s", seconds["avg_first_token_latency"], "lower", "mean, with tokenisation"),
        _metric("rest_dispatch", "s", seconds["avg_rest_token_latency"], "lower", "mean; not synchronised: dispatch"),
        _metric("end_to_end", "s", seconds["avg_e2e_latency"], "lower", "mean, with tokenisation"),
    )
    source = f"results.json of run_generation.py, sha256 {digest.of_bytes(text)}"
    asked = Workload(batch=batch, new_tokens=new_tokens, input_length=input_length)
    return _record(card, model, dtype, ranks, asked, metrics, source, labels={"file": path.name})


def baselines(place: Path) -> Imported:
    """The throughputs of `tests/baselines/fixture/**.json` of a checkout, one record a model, workload and card."""
    files = sorted(place.rglob("*.json")) if place.is_dir() else [place]
    if not files:
        raise BadInput(f"{place}: no JSON file there; name tests/baselines/fixture of an optimum-habana checkout")
    found = Imported()
    for file in files:
        data, text = _json(file)
        source = f"{file.name} of optimum-habana's baselines, sha256 {digest.of_bytes(text)}"
        for test, contexts in data.items():
            _baseline(test, contexts, source, found)
    return found


def _baseline(test: str, contexts: Any, source: str, found: Imported) -> None:
    match = re.search(r"::test_text_generation_(\w+)\[(.+)\]$", test)
    if match is None:
        found.left_out.append((test, "no test of text generation"))
        return
    kind, parameters = match.groups()
    pattern = _PARAMETERS.get(kind)
    asked = re.fullmatch(f"(?P<model>.+?){pattern}", parameters) if pattern is not None else None
    if asked is None or not isinstance(contexts, dict):
        found.left_out.append((test, f"its parameters are not greedy generation as {', '.join(_PARAMETERS)} have them"))
        return
    words: dict[str, str] = {name: text for name, text in asked.groupdict().items() if text} | _FIXED.get(kind, {})
    for context, values in contexts.items():
        value = values.get("throughput") if isinstance(values, dict) else None
        if context not in _CARD or not isinstance(value, (int, float)) or not _number(value):
            found.left_out.append((f"{test} {context}", f"no throughput, or no card that is known: {value!r}"))
            continue
        workload = Workload(
            batch=int(words.get("batch", 1)),
            new_tokens=int(words.get("new", 100)),  # the script's own default
            input_length=int(words["input"]) if "input" in words else None,
        )
        metric = _metric("tokens_per_s", "tokens/s", float(value), "higher", "iterations x batch x new tokens / wall")
        options = {"test": kind}
        found.records.append(
            _record(
                *(_CARD[context], words["model"], _DTYPE.get(kind, "bf16"), int(words.get("ranks", 1))),
                *(workload, (metric,), source),
                labels={"test": test},
                options=options,
            )
        )


def _record(
    card: str,
    model: str,
    dtype: str,
    ranks: int,
    workload: Workload,
    metrics: tuple[Metric, ...],
    source: str,
    *,
    labels: Mapping[str, str],
    options: Mapping[str, str] | None = None,
) -> Record:
    return Record(
        run="optimum-habana",
        created="2026-01-01T00:00:00.000000Z",  # the files carry no date; equal files stay one record
        kind="measurement",
        system=System(device="hpu", class_id=f"{card}-by-optimum-habana", used=ranks),
        software=Software(genqual="none: optimum-habana's own"),
        model=Model(name=model),
        engine=Engine(
            name="optimum-habana",
            ranks=ranks,
            parallelism={"tensor": ranks} if ranks > 1 else {},
            options=dict(options or {}),
        ),
        precision=Precision(dtype=dtype),
        workload=workload,
        metrics=metrics,
        provenance=Provenance(kind="cited", source=source, url=REPOSITORY, doubts=DOUBTS),
        protocol={"published": "run_generation.py"},
        labels=dict(labels),
    )


def _metric(name: str, unit: str, value: float, better: Any, definition: str) -> Metric:
    return Metric(name=name, unit=unit, value=value, statistic="mean", better=better, definition=definition)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0


def _json(path: Path) -> tuple[dict[str, Any], bytes]:
    try:
        text = path.read_bytes()
        data = json.loads(text)
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(data, dict):
        raise BadInput(f"{path}: holds a {type(data).__name__}, not an object")
    return data, text
