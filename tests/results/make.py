"""Records for tests: one call, with only what a test is about spelled out."""

from __future__ import annotations

from typing import Any

from genqual.records.fields import (
    Engine,
    Model,
    Origin,
    Outcome,
    Precision,
    Provenance,
    Software,
    Status,
    System,
    Workload,
)
from genqual.records.judgement_record import Judgement
from genqual.records.metric import Metric
from genqual.records.record import Record

CREATED = "2026-05-01T12:00:00.000000Z"


def timing(name: str = "tpot", samples: tuple[float, ...] = (0.01, 0.02, 0.03), **fields: Any) -> Metric:
    middle = sorted(samples)[len(samples) // 2]
    return Metric(**{"name": name, "unit": "s", "value": middle, "samples": samples, "better": "lower", **fields})


def record(
    *,
    device: str = "xeon",
    class_id: str = "xeon-6-2c",
    used: int = 1,
    model: str = "llama-30m",
    architecture: str = "llama",
    engine: str = "transformers",
    ranks: int = 1,
    options: dict[str, Any] | None = None,
    dtype: str = "bf16",
    batch: int = 1,
    input_length: int = 32,
    new_tokens: int = 16,
    status: Status = "ok",
    metrics: tuple[Metric, ...] | None = None,
    provenance: Origin = "measured",
    source: str | None = None,
    created: str = CREATED,
    run: str = "run-1",
    **fields: Any,
) -> Record:
    measured = (timing(),) if metrics is None and status == "ok" else metrics or ()
    return Record(
        run=run,
        created=created,
        kind=fields.pop("kind", "measurement"),
        system=System(device=device, class_id=class_id, used=used, facts={"sockets": 1}),
        software=Software(genqual="0.1.0", versions={"numpy": "2.0"}),
        model=Model(name=model, architecture=architecture, weights_sha256=fields.pop("weights", "a" * 64)),
        engine=Engine(name=engine, ranks=ranks, options=options or {}),
        precision=Precision(dtype=dtype),
        workload=Workload(batch=batch, input_length=input_length, new_tokens=new_tokens),
        outcome=fields.pop("outcome", None) or Outcome(status=status, message=None if status == "ok" else "why"),
        metrics=measured,
        provenance=Provenance(kind=provenance, source=source),
        **fields,
    )


def verdict(
    *, name: str = "greedy", word: str = "pass", lane: str = "declared", nrms: float | None = 0.01, **fields: Any
) -> Record:
    judgement = Judgement(
        property=name,
        verdict=word,
        lane=lane,
        tier="logits",
        nrms=nrms,
        limit=0.02,
        flips=fields.pop("flips", 0),
        explanation=fields.pop("explanation", ""),
        independent=fields.pop("independent", None),
    )
    wrong = Outcome(status="accuracy_fail" if word == "fail" else "ok")
    return record(kind="judgement", judgement=judgement, metrics=(), outcome=wrong, **fields)
