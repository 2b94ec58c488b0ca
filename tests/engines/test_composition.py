"""Which dtype each weight has, and where bytes are: a model's own rule, quantised matrices, tied heads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest
from safetensors.numpy import save_file

from genqual.conformance.judges.shards import judge_evidence, judge_smaller
from tests.conformance.oracle.small import SMALL, parameters

from .harness import Answers, run

# Keeps the routers' correction biases in fp32, in bf16 as well. Rows of 16 bytes, for torch's grouped product.
ROUTED: Final[dict[str, Any]] = SMALL["deepseek_v3"] | {"moe_intermediate_size": 32}
CLAMPED: Final[dict[str, Any]] = SMALL["gpt_oss"]  # keeps its norms in fp32, in fp16 alone
# A vocabulary that outweighs the layers: quantised, its tied head is a second matrix beside the embedding.
TIED: Final[dict[str, Any]] = SMALL["qwen2"] | {"tie_word_embeddings": True, "vocab_size": 2048, "bos_token_id": 1}
GPT2: Final[dict[str, Any]] = SMALL["gpt2"]

PLACEMENTS = ("auto", "split", "cpu-offload", "disk-offload", "disk")


def checkpoint(folder: Path, name: str, config: dict[str, Any]) -> Path:
    directory = folder / name
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config))
    save_file(parameters(config), directory / "model.safetensors", {"format": "pt"})
    return directory


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    folder = tmp_path_factory.mktemp("composition")
    routed, clamped = checkpoint(folder, "routed", ROUTED), checkpoint(folder, "clamped", CLAMPED)
    tied, gpt2 = checkpoint(folder, "tied", TIED), checkpoint(folder, "gpt2", GPT2)
    plans: list[dict[str, Any]] = [
        *(
            {"engine": "transformers", "model": str(model), "dtype": dtype, "steps": [["facts", f"{name}.{dtype}", {}]]}
            for name, model in (("routed", routed), ("clamped", clamped))
            for dtype in ("fp32", "bf16", "fp16")
        ),
        *(
            {
                **{"engine": "accelerate", "model": str(routed), "dtype": "bf16", "options": {"placement": placement}},
                "steps": [["facts", f"routed.{placement}", {}]],
            }
            for placement in PLACEMENTS
        ),
        {
            **{"engine": "accelerate", "model": str(routed), "dtype": "bf16"},
            "steps": [
                ["refused", "routed.dispatch", {"placement": "dispatch"}],
                ["inject", "cast", {"name": "kept_in_fp32_cast"}],
                ["facts", "routed.cast", {}],
            ],
        },
        *(
            {"engine": engine, "model": str(tied), "dtype": dtype, "steps": [["facts", f"tied.{dtype}", {}]]}
            for engine, dtype in (
                ("transformers", "bf16"),
                ("transformers", "int8-weight"),
                ("accelerate", "int8-bitsandbytes"),
            )
        ),
        {
            **{"engine": "transformers", "model": str(gpt2), "dtype": "fp32"},
            "steps": [["refused", "gpt2.int8-weight", {"dtype": "int8-weight"}]],
        },
    ]
    (found,) = run(folder, *plans)
    return found


def evidence(answers: Answers, key: str, dtype: str) -> Any:
    return judge_evidence(
        [answers[f"{key}.inspect"]],
        [answers[f"{key}.parameters"]],
        dtype=dtype,
        ranks=1,
        total=answers["routed.fp32.parameters"] if key.startswith("routed") else None,
        graph=False,
    )


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("model", ["routed", "clamped"])
def test_what_a_model_keeps_in_fp32_by_its_own_rule_is_right(answers: Answers, model: str, dtype: str) -> None:
    found = evidence(answers, f"{model}.{dtype}", dtype)
    assert found.passed, found.explanation
    kept = answers[f"{model}.{dtype}.inspect"]["dtype_rule"]["kept"]
    layers = 3  # of ROUTED's four layers the first is dense; CLAMPED has three, with two norms each and one at the end
    assert (
        kept == {"routed": {"fp32": 0}.get(dtype, layers), "clamped": 2 * layers + 1 if dtype == "fp16" else 0}[model]
    )


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_wherever_the_weights_lie(answers: Answers, placement: str) -> None:
    found = evidence(answers, f"routed.{placement}", "bf16")
    assert found.passed, found.explanation


def test_a_loader_that_would_cast_them_is_unsupported(answers: Answers) -> None:
    assert "Unsupported: placement=dispatch: accelerate casts every weight to bf16" in answers["routed.dispatch"]
    assert "keeps 3 of its own in another dtype" in answers["routed.dispatch"]


def test_an_engine_that_casts_them_is_found(answers: Answers) -> None:
    found = evidence(answers, "routed.cast", "bf16")
    assert not found.passed
    assert "e_score_correction_bias in bfloat16, not in float32, which the model keeps so" in found.explanation


def test_another_dtype_than_the_rule_says_is_found(answers: Answers) -> None:
    """The same ranks, judged as if something else had been declared, or as they were before they told their rule."""
    facts: dict[str, Any] = answers["routed.fp32.inspect"]
    assert not judge_evidence([facts], [1], dtype="bf16", ranks=1, total=None, graph=False).passed
    old = {name: value for name, value in answers["routed.bf16.inspect"].items() if name != "dtype_rule"}
    assert judge_evidence([old], [1], dtype="bf16", ranks=1, total=None, graph=False).passed
    assert not judge_evidence(
        [old | {"dtypes": ["float32"]}], [1], dtype="bf16", ranks=1, total=None, graph=False
    ).passed


@pytest.mark.parametrize("scheme", ["int8-weight", "int8-bitsandbytes"])
def test_a_tied_head_is_told_apart(answers: Answers, scheme: str) -> None:
    facts = answers[f"tied.{scheme}.inspect"]
    plain = 2 * answers["tied.bf16.parameters"]
    held = answers[f"tied.{scheme}.weight_bytes"]
    assert held > 0.8 * plain, "the whole model must hold no less, or there is nothing to tell apart"
    found = judge_smaller([facts], held, plain, scheme=scheme)
    assert found.passed, found.explanation
    in_layers = sum(array.size for name, array in parameters(TIED).items() if "proj.weight" in name)
    assert facts["matrices"]["layers"]["weights"] == in_layers
    assert facts["matrices"]["embedding"] == {"weights": 2048 * 32, "bytes": 2 * 2048 * 32}


def test_weights_that_stay_wide_are_found(answers: Answers) -> None:
    facts = answers["tied.bf16.inspect"]
    plain = 2 * answers["tied.bf16.parameters"]
    assert facts["matrices"]["layers"]["bytes"] == 2 * facts["matrices"]["layers"]["weights"]
    found = judge_smaller([facts], answers["tied.bf16.weight_bytes"], plain, scheme="int8-weight")
    assert not found.passed
    assert "layers' matrices" in found.explanation
    silent = judge_smaller([{}], plain, plain, scheme="int8-weight")
    assert not silent.passed
    assert judge_smaller([{}], plain // 2, plain, scheme="int8-weight").passed


def test_a_model_without_linear_layers_is_unsupported(answers: Answers) -> None:
    said = answers["gpt2.int8-weight"]
    assert "torchao quantises torch.nn.Linear" in said
    assert "Conv1D" in said
