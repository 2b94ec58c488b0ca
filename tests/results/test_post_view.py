"""The table of the BLOOM posts: exact cells, and how a batch ended that has none."""

from __future__ import annotations

from typing import Any

from genqual.analysis.terminal.summary import post_table
from genqual.records.fields import Outcome, Workload
from genqual.records.metric import Metric
from genqual.records.record import Record
from tests.results.make import record
from tests.results.test_tables import cells, drawn


def spent(ms: float | None, batch: int, **fields: Any) -> Record:
    metrics = () if ms is None else (
        Metric(name="msec_per_token", unit="ms", value=ms, samples=(ms,), better="lower"),
    )  # fmt: skip
    return record(metrics=metrics, batch=batch, **fields)


def test_engines_and_precisions_down_batches_across() -> None:
    lines = drawn(
        post_table(
            [
                spent(230.38, 1, engine="accelerate"),
                spent(31.78, 8, engine="accelerate"),
                spent(None, 64, engine="accelerate", status="oom"),
                spent(286.56, 1, engine="accelerate", dtype="int8-bitsandbytes"),
                spent(44.02, 1, engine="deepspeed-inference", ranks=8, dtype="fp16"),
                spent(0.69, 64, engine="deepspeed-inference", ranks=8, dtype="fp16", status="accuracy_fail"),
            ]
        )
    )
    assert lines[0].startswith("msec per token, wall / (batch x new tokens)")
    rows = {line[0]: line[1:] for line in cells(lines[1:])}
    assert rows["llama-30m i32 n16, batch"] == ["1", "8", "64"]
    assert rows["accelerate bf16"] == ["230", "31.8", "OOM"]
    assert rows["accelerate int8-bitsandbytes"] == ["287", "-", "-"]
    assert rows["deepspeed-inference x8 fp16"] == ["44.0", "-", "WRONG"]


def test_what_upstream_cannot_run_has_a_row_of_its_own() -> None:
    refused = record(
        engine="deepspeed-inference", dtype="int8-deepspeed", metrics=(), ranks=2,
        outcome=Outcome(status="unsupported", phase="load", message="no kernels"),
    ).model_copy(update={"workload": Workload()})  # fmt: skip
    two = [spent(1.0, 1), spent(0.5, 4), spent(2.0, 1, engine="accelerate"), refused]
    rows = {line[0]: line[1:] for line in cells(drawn(post_table(two)))}
    assert rows["deepspeed-inference x2 int8-deepspeed"] == ["unsupp", "unsupp"]


def test_one_engine_or_one_batch_needs_no_such_table() -> None:
    assert post_table([spent(1.0, 1), spent(0.5, 4)]) is None
    assert post_table([spent(1.0, 1), spent(0.5, 1, engine="accelerate")]) is None
    assert post_table([]) is None


def test_models_and_lengths_are_tables_of_their_own() -> None:
    every = [
        spent(float(batch * length), batch, engine=engine, model=model, weights=model * 64, input_length=length)
        for batch in (1, 4) for length in (8, 16) for engine in ("accelerate", "transformers") for model in ("a", "b")
    ]  # fmt: skip
    heads = [line[0] for line in cells(drawn(post_table(every))) if line[0].endswith("batch")]
    assert heads == [f"{model} i{length} n16, batch" for model in "ab" for length in (8, 16)]
