"""The compiled engine: that compiled code ran, with its own cache, and computes what eager code does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .checks import callback_runs_between_steps, decoding_is_right, fault_shows, same_tokens
from .conftest import FORCED, STOPS, faults_of, steps, stopping
from .harness import LEVEL, NEW, ROWS, Answers, run

pytestmark = pytest.mark.heavy  # each graph costs seconds of C++ compiler

OTHER = [[900, 17, 333, 48], [5, 4, 3, 2]]  # the shape of LEVEL, other tokens
FEW = {"llama-tiny": {"compiled_only", "stale_kv", "sign_flip"}, "bloom-tiny": {"compiled_only", "alibi_slope_1pct"}}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """Both models, a few faults, and shapes that come back after others were run."""
    plans: list[dict[str, Any]] = []
    for model, few in FEW.items():
        wanted = [
            step for step in steps("transformers-compiled", model) if step[0] != "faulty" or step[2]["name"] in few
        ]
        again = [
            ["generate", f"{model}.other", {"rows": OTHER, "new": NEW}],
            ["generate", f"{model}.padded_again", {"rows": ROWS, "new": NEW}],
            ["generate", f"{model}.level_again", {"rows": LEVEL, "new": NEW}],
            ["facts", f"{model}.before_faults", {}],
        ]
        plans.append({"engine": "transformers-compiled", "model": model, "steps": [*wanted[:5], *again, *wanted[5:]]})
    plans[0]["steps"] += [["between", "between", {"rows": LEVEL, "new": 5}], *stopping("llama-tiny")]
    plain = {
        "engine": "transformers",
        "model": "llama-tiny",
        "steps": [["generate", "eager.other", plans[0]["steps"][5][2]]],
    }
    return run(tmp_path_factory.mktemp("compiled"), *plans, plain)[0]


@pytest.mark.parametrize("model", FEW)
def test_decoding_agrees_with_an_exact_pass(compiled: Answers, model: str) -> None:
    decoding_is_right(compiled, model)


@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize(
    ("option", "sign", "others"),
    [("cpp_wrapper", "inductor_entry_impl", "+attn_implementation=eager"), ("dynamic", "int64_t ks0", "")],
)
def test_what_the_compiler_is_asked_for_is_in_its_code_and_changes_no_token(
    tmp_path: Path, eager: Answers, option: str, sign: str, others: str, asked: bool
) -> None:
    """A wrapper in C++ has an entry of its own; kernels of any shape are told the size."""
    plan = {
        "engine": f"transformers-compiled:{option}={str(asked).lower()}{others}",
        "model": "llama-tiny",
        "steps": steps("transformers-compiled", "llama-tiny", key="tuned")[:6],
    }
    (found,) = run(tmp_path, plan, TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "inductor"))
    decoding_is_right(found, "tuned")
    assert found["tuned.facts.inspect"][option] is asked
    for batch in ("padded", "level"):
        assert found[f"tuned.{batch}.tokens"].tolist() == eager[f"llama-tiny.{batch}.tokens"].tolist()
    written = [file.read_text() for file in (tmp_path / "inductor").rglob("*.cpp")]
    assert written
    assert any(sign in text for text in written) is asked


@pytest.mark.parametrize("model", FEW)
def test_tokens_are_those_of_the_eager_engine(compiled: Answers, eager: Answers, model: str) -> None:
    same_tokens(compiled, eager, model)


def test_a_graph_is_not_tied_to_the_cache_it_was_made_with(compiled: Answers) -> None:
    """With freezing, tensors marked static are baked into the graph: a later cache of the same shape was not read."""
    assert compiled["llama-tiny.other.tokens"].tolist() == compiled["eager.other.tokens"].tolist()
    for model in FEW:
        for batch in ("padded", "level"):
            again = compiled[f"{model}.{batch}_again.tokens"]
            assert again.tolist() == compiled[f"{model}.{batch}.tokens"].tolist()


@pytest.mark.parametrize("model", FEW)
def test_every_decode_step_ran_a_compiled_graph(compiled: Answers, model: str) -> None:
    found = compiled[f"{model}.before_faults.inspect"]
    assert found["graph_hits"] == 5 * (NEW - 1) + (len(FORCED[0]) - 1)  # five generations and one score, prefill eager
    assert found["compilations"] <= 2 + 1  # two shapes, and BLOOM with and without a mask; repeats compile nothing
    assert (found["cache"], found["cache_length"], found["freezing"]) == ("StaticCache", 128, True)


@pytest.mark.parametrize(("model", "name"), [(model, name) for model, few in FEW.items() for name in sorted(few)])
def test_a_fault_shows_in_compiled_code_and_is_taken_back(compiled: Answers, model: str, name: str) -> None:
    assert name in faults_of("transformers-compiled", model)
    fault_shows(compiled, model, name)


@pytest.mark.parametrize("model", FEW)
def test_a_fault_of_compiled_code_leaves_the_eager_pass_alone(compiled: Answers, model: str) -> None:
    clean = compiled[f"{model}.one_pass.projections"]
    assert np.array_equal(compiled[f"{model}.compiled_only.prefill"], clean)


def test_a_callback_runs_between_compiled_steps_and_changes_no_token(compiled: Answers) -> None:
    callback_runs_between_steps(compiled, "between")
    assert compiled["between.tokens"].tolist() == compiled["llama-tiny.level.tokens"][:, :5].tolist()


@pytest.mark.parametrize("how", STOPS)
def test_a_run_that_may_stop_is_run_by_the_graph_that_is_timed(compiled: Answers, how: str) -> None:
    tokens = compiled[f"llama-tiny.until.{how}.tokens"]
    assert tokens.tolist() == compiled["llama-tiny.level.tokens"][:, :5].tolist()
    assert compiled[f"llama-tiny.until.{how}.hits"] == 4  # the prefill is eager


def test_without_a_compiler_it_is_unsupported(tmp_path: Path) -> None:
    plan = {"engine": "transformers-compiled", "model": "llama-tiny", "steps": []}
    with pytest.raises(AssertionError, match=r"Unsupported: torch.compile needs a C\+\+ compiler"):
        run(tmp_path, plan, CXX="no-such-compiler")
