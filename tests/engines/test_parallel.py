"""Tensor parallel engines on two ranks: transformers' own plan and DeepSpeed's AutoTP, against one eager rank."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks.xeon_decode import build

from .checks import callback_runs_between_steps, decoding_is_right, fault_shows, same_tokens
from .conftest import FORCED, faults_of, steps
from .harness import LEVEL, NEW, ROWS, Answers, nrms, run, start

RUNS = (
    ("transformers-tp", "llama-tiny"),
    ("deepspeed-inference", "llama-tiny"),
    ("deepspeed-inference", "bloom-tiny"),
    ("deepspeed-inference:load=meta", "llama-tiny"),
    ("deepspeed-inference:load=meta", "bloom-tiny"),
)
ODD = {"hidden": 192, "intermediate": 64, "layers": 1, "heads": 3, "kv_heads": 1, "vocabulary": 64}
each_run = pytest.mark.parametrize(("engine", "model"), RUNS)


def buffers() -> set[Path]:
    """The all-reduce buffers of DeepSpeed that have a name on this host."""
    return set(Path("/dev/shm").glob("deepspeed_*"))  # where Linux keeps the names of shared memory


def in_use(buffer: Path) -> bool:
    """Whether a process has it mapped: another group that starts at the same time, beside these tests or in them."""
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with suppress(OSError):  # the process has ended, or is somebody else's
            if f" {buffer}" in maps.read_text():
                return True
    return False


@pytest.fixture(scope="module")
def buffers_before() -> set[Path]:
    return buffers()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory, buffers_before: set[Path]) -> list[Answers]:
    """Both ranks' answers to all three runs, one after another in one launch."""
    plans = [
        {"engine": engine, "model": model, "steps": steps(engine, model, 2, f"{engine}.{model}")}
        for engine, model in RUNS
    ]
    for (engine, model), plan in zip(RUNS, plans, strict=True):
        plan["steps"] = [*plan["steps"], ["between", f"{engine}.{model}.between", {"rows": LEVEL, "new": 5}]]
    plans[2]["steps"] = [*plans[2]["steps"], ["refused", "shards", {"load": "presharded"}]]
    plans[0]["steps"] = [*plans[0]["steps"], ["refused", "no_plan", {"model": "bloom-tiny"}]]
    build(odd := tmp_path_factory.mktemp("odd") / "model", ODD)
    plans[0]["steps"] = [*plans[0]["steps"], ["refused", "odd", {"model": str(odd)}]]
    plans[1]["steps"] = [*plans[1]["steps"], ["refused", "injection", {"kernel_inject": True}]]
    return run(tmp_path_factory.mktemp("parallel"), *plans, ranks=2)


@each_run
def test_decoding_and_one_pass_agree_with_an_exact_pass(ranks: list[Answers], engine: str, model: str) -> None:
    decoding_is_right(ranks[0], f"{engine}.{model}")


@each_run
def test_tokens_are_those_of_one_eager_rank(ranks: list[Answers], eager: Answers, engine: str, model: str) -> None:
    for batch in ("padded", "level"):
        assert ranks[0][f"{engine}.{model}.{batch}.tokens"].tolist() == eager[f"{model}.{batch}.tokens"].tolist()


@each_run
def test_a_callback_runs_between_steps_and_changes_no_token(ranks: list[Answers], engine: str, model: str) -> None:
    """The gate's hook, in every rank: between the collectives of two steps."""
    for rank in ranks:
        callback_runs_between_steps(rank, f"{engine}.{model}.between")


@each_run
def test_ranks_agree_bit_by_bit(ranks: list[Answers], engine: str, model: str) -> None:
    for what in ("score.logits", "one_pass.logits", "padded.tokens"):
        assert np.array_equal(ranks[0][f"{engine}.{model}.{what}"], ranks[1][f"{engine}.{model}.{what}"])


@each_run
def test_each_rank_holds_its_share(ranks: list[Answers], eager: Answers, engine: str, model: str) -> None:
    whole, parts = eager[f"{model}.facts.parameters"], [one[f"{engine}.{model}.facts.parameters"] for one in ranks]
    assert max(parts) < 0.75 * whole  # DeepSpeed keeps the embeddings whole
    assert sum(parts) >= whole
    assert ranks[0][f"{engine}.{model}.facts.weight_hash"] != ranks[1][f"{engine}.{model}.facts.weight_hash"]
    halves = [one[f"{engine}.{model}.facts.kv_bytes_per_token"] * 2 for one in ranks]
    assert halves == [eager[f"{model}.facts.kv_bytes_per_token"]] * 2


@pytest.mark.parametrize(
    ("engine", "model", "parameter"),
    [
        ("transformers-tp", "llama-tiny", "model.layers.0.self_attn.o_proj.weight"),
        ("deepspeed-inference", "llama-tiny", "model.layers.0.self_attn.q_proj.weight"),
        ("deepspeed-inference", "bloom-tiny", "transformer.h.0.mlp.dense_h_to_4h.weight"),
    ],
)
def test_inspect_lists_the_shards(
    ranks: list[Answers], eager: Answers, engine: str, model: str, parameter: str
) -> None:
    whole = eager[f"{model}.facts.inspect"]["shards"][parameter]
    for rank in ranks:
        shard = rank[f"{engine}.{model}.facts.inspect"]["shards"][parameter]
        assert math.prod(shard) * 2 == math.prod(whole)


def test_deepspeed_reduces_through_shared_memory_and_says_so(ranks: list[Answers]) -> None:
    found = ranks[0]["deepspeed-inference.llama-tiny.facts.inspect"]
    assert found["all_reduce"] == "DeepSpeed shared memory"
    assert sum(n for name, n in found["operators"].items() if name.startswith("deepspeed.inference_all_reduce_")) == 7
    assert found["modules"]["LinearAllreduce"] == 2 * 3


def test_no_shared_memory_is_left_behind(ranks: list[Answers], buffers_before: set[Path]) -> None:
    assert ranks[0]["deepspeed-inference.llama-tiny.facts.inspect"]["all_reduce"] == "DeepSpeed shared memory"
    assert [one for one in buffers() - buffers_before if not in_use(one) and one.exists()] == []


def test_transformers_reduces_through_gloo(ranks: list[Answers]) -> None:
    found = ranks[0]["transformers-tp.llama-tiny.facts.inspect"]
    assert any("allreduce" in name or "all_reduce" in name for name in found["operators"])
    assert found["tp_plan"]["lm_head"].startswith("colwise")


@pytest.mark.parametrize(
    ("engine", "model", "name"),
    [(engine, model, name) for engine, model in RUNS for name in faults_of(engine, model, 2)],
)
def test_every_fault_shows_and_is_taken_back(ranks: list[Answers], engine: str, model: str, name: str) -> None:
    fault_shows(ranks[0], f"{engine}.{model}", name)


@each_run
def test_a_silent_head_costs_the_same_however_it_is_run(
    ranks: list[Answers], eager: Answers, engine: str, model: str
) -> None:
    """The fault is placed by its meaning, not by a tensor's index: sharding must not move it."""
    here, there = ranks[0][f"{engine}.{model}.zeroed_head.decode"], eager[f"{model}.zeroed_head.decode"]
    assert nrms(here, there) < 3e-6


def test_what_upstream_cannot_run_is_unsupported(ranks: list[Answers]) -> None:
    for rank in ranks:
        assert rank["no_plan"].startswith("Unsupported: transformers has no tensor parallel plan for bloom")
        assert rank["odd"].startswith("Unsupported: 1 key-value head(s) for 2 ranks (3 attention heads)")
        assert rank["injection"].startswith("Unsupported: DeepSpeed's kernel injection has no CPU kernels")
        assert rank["shards"].startswith(
            "Unsupported: load=presharded: DeepSpeed writes and reads shards for its injected"
        )


@pytest.mark.heavy
def test_deepspeed_without_a_compiler_uses_gloo_and_says_so(tmp_path: Path, eager: Answers) -> None:
    plan = {"engine": "deepspeed-inference", "model": "bloom-tiny", "steps": steps(None, "bloom-tiny")}
    answers = run(tmp_path, plan, ranks=2, CXX="no-such-compiler")
    assert answers[0]["bloom-tiny.facts.inspect"]["all_reduce"] == "gloo"
    assert not any(name.startswith("deepspeed") for name in answers[0]["bloom-tiny.facts.inspect"]["operators"])
    same_tokens(answers[0], eager, "bloom-tiny")
    decoding_is_right(answers[0], "bloom-tiny")


@pytest.mark.heavy
def test_deepspeed_on_one_rank_needs_no_group(tmp_path: Path, eager: Answers) -> None:
    plan = {"engine": "deepspeed-inference", "model": "llama-tiny", "steps": steps(None, "llama-tiny")}
    answers = run(tmp_path, plan)
    assert answers[0]["llama-tiny.facts.inspect"]["all_reduce"] == "none"
    same_tokens(answers[0], eager, "llama-tiny")
    decoding_is_right(answers[0], "llama-tiny")


@pytest.mark.heavy
@pytest.mark.parametrize(("code", "says"), [(3, "exitcode  : 3"), (-9, "Signal 9 (SIGKILL)")])
def test_a_rank_exits_at_its_step(tmp_path: Path, code: int, says: str) -> None:
    plan = {
        **{"engine": "deepspeed-inference", "model": "bloom-tiny"},
        "steps": [["misbehave", "rank_exit", {"name": "rank_exit", "rows": LEVEL, "new": NEW, "code": code}]],
    }
    (tmp_path / "plan.json").write_text(json.dumps([plan]))
    done = start([str(tmp_path / "plan.json"), str(tmp_path / "answer")], ranks=2)
    assert done.returncode != 0
    assert says in done.stderr


def test_both_batches_are_padded_and_not() -> None:
    assert len({len(row) for row in ROWS}) == 3
    assert len({len(row) for row in LEVEL}) == 1
    assert {len(row) for row in FORCED} == {6}
