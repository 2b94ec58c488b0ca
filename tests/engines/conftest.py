"""One process of plain transformers for all quick tests of this room: importing torch takes longer than the models."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genqual.faults import CATALOGUE

from .harness import LEVEL, NEW, ROWS, Answers, answered, run

FORCED = np.random.default_rng(5).integers(3, 1000, (len(ROWS), 6)).tolist()  # what no model would say
# 20 columns: equals at the edge of the top 16 and inside it; a row with NaN and one with an infinity.
TIES: list[list[float | None]] = [
    [0.0, 5.0, 0.0, 5.0, *[1.0] * 15, 9.0],
    [None, *[2.0] * 19],
    [1e39, *[2.0] * 19],
]
NARROW = [[1.0 + 2.0**-9, *[-float(k) for k in range(19)]]]  # bf16 rounds the first to 1


PROBED = (  # of the catalogue: one or two of each room of faults; all of them are run by `genqual faults matrix`
    *("stale_kv", "zeroed_head", "rotary_theta_1pct", "alibi_slope_1pct", "half_allreduce", "nan_hidden", "nan_logit"),
    *("decode_only", "compiled_only", "sign_flip", "row_zeroed"),
)


def faults_of(engine: str | None, model: str, ranks: int = 1) -> list[str]:
    """Names of the faults of logits that fit; none where no engine is named."""
    if engine is None:
        return []
    architecture = model.partition("-")[0]
    return [
        name
        for name, fault in CATALOGUE.items()
        if name in PROBED and fault.fits(engine=engine, architecture=architecture, ranks=ranks)
    ]


def steps(engine: str | None, model: str, ranks: int = 1, key: str = "") -> list[list[Any]]:
    """What each engine is asked: both batches, forced tokens by decoding, in one pass and exactly, facts, faults."""
    forced = {"rows": ROWS, "forced": FORCED}
    key = key or model
    return [
        ["generate", f"{key}.padded", {"rows": ROWS, "new": NEW}],
        ["generate", f"{key}.level", {"rows": LEVEL, "new": NEW}],
        ["score", f"{key}.score", forced],
        ["score", f"{key}.one_pass", forced | {"prefill": True}],
        ["exact", f"{key}.exact", forced],
        ["facts", f"{key}.facts", {}],
        *(["faulty", f"{key}.{name}", {"name": name} | forced] for name in faults_of(engine, model, ranks)),
    ]


STOPS: dict[str, dict[str, Any]] = {"never": {}, "whole": {"max_length": True}, "least": {"least": 3, "eos": [5]}}


def stopping(key: str) -> list[list[Any]]:
    """Runs that may stop: at no id, by the length of prompt and new tokens, not before a least length."""
    return [["until", f"{key}.until.{name}", {"rows": LEVEL, "new": 5} | how] for name, how in STOPS.items()]


@pytest.fixture(scope="session")
def eager(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """What the `transformers` engine answers, by model and key; computed once for all workers of a run."""
    room = tmp_path_factory.getbasetemp()
    room = (room.parent if hasattr(request.config, "workerinput") else room) / "eager"
    room.mkdir(exist_ok=True)
    with (room / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # let go when it is closed, or when the worker that holds it dies
        return answered(room)[0] if (room / "whole").exists() else computed(room)


def computed(room: Path) -> Answers:
    """Ask the engine, and leave its answers in `room` for the other workers."""
    llama = [
        *steps("transformers", "llama-tiny"),
        *stopping("llama-tiny"),
        ["between", "between", {"rows": LEVEL, "new": 5}],
        ["misbehave", "rank_raise", {"name": "rank_raise", "rows": LEVEL, "new": 4, "message": "on purpose"}],
        ["misbehave", "rank_sleep", {"name": "rank_sleep", "rows": LEVEL, "new": 4, "seconds": 0.5}],
        ["resisting", "resisting", {"rows": LEVEL, "new": NEW, "stop": 7}],
        ["recorded", "ties", {"logits": TIES, "dtype": "float32"}],
        ["many", "parts", {"steps": 7, "rows": 3, "vocabulary": 500, "most_bytes": 2 * 3 * 500 * 8}],
        ["recorded", "narrow", {"logits": NARROW, "dtype": "bfloat16"}],
        *(["product", precision, {"precision": precision}] for precision in ("highest", "medium")),
        ["memory", "memory", {"megabytes": 200}],
        ["starve", "starve", {"rows": LEVEL, "new": NEW, "megabytes": 300}],
        ["held", "held", {"rows": LEVEL, "new": NEW, "megabytes": 300}],
        ["refused", "cuda_graphs", {"graphs": "cuda"}],
        ["refused", "no_graphs", {"graphs": "yes"}],
        ["refused", "no_wrapper", {"graphs": "compile", "cpp_wrapper": "yes"}],
        ["refused", "no_dynamic", {"graphs": "compile", "dynamic": "yes"}],
        ["tight", "tight", {"model": "llama-30m", "megabytes": 100}],
        ["again", "again", {"rows": LEVEL, "new": 5}],
        ["first", "first", {"name": "first_pass_wrong"}],
    ]
    bloom = [
        *steps("transformers", "bloom-tiny"),
        ["refused", "sdpa", {"attn_implementation": "sdpa"}],
    ]
    plain: dict[str, Any] = {"engine": "transformers"}
    answers = run(
        room,
        plain | {"model": "llama-tiny", "steps": llama},
        plain | {"model": "bloom-tiny", "steps": bloom},
        *(
            {
                "engine": "transformers:graphs=static",
                "model": model,
                "steps": [
                    *steps(None, model, key=f"static.{model}"),
                    ["again", "static.again", {"rows": LEVEL, "new": 5}],
                    ["first", f"static.{model}.first", {"name": "first_pass_wrong"}],
                    *stopping(f"static.{model}"),
                ],
            }
            for model in ("llama-tiny", "bloom-tiny")
        ),
        plain
        | {"model": "llama-tiny", "options": {"attn_implementation": "eager"}}
        | {"steps": [["facts", "manual.facts", {}], ["score", "manual", {"rows": ROWS, "forced": FORCED}]]},
        plain
        | {"model": "llama-tiny", "dtype": "bf16"}
        | {"steps": [["facts", "bf16.facts", {}], ["score", "bf16", {"rows": ROWS, "forced": FORCED}]]},
    )
    (room / "whole").touch()
    return answers[0]
