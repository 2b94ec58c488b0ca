"""A mixture of experts is known by its configuration: without a reference, or with transformers' own, too."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fixtures import texts
from genqual.cases import Case
from genqual.conformance.judgement import Judgement
from genqual.conformance.scores import scores_of
from genqual.engines.base import Scores, TokenBatch
from genqual.models import embedded, weights
from genqual.models.registry import resolve
from genqual.models.spec import ModelSpec
from genqual.session.fixture_types import ScoringSample
from suites.conformance import test_cache as cache
from tests.here import CPU

PROMPTS = TokenBatch.of([[3, 4], [5], [6, 7]])
FORCED = np.arange(27, dtype=np.int64).reshape(3, 9) % 20
LOGITS = np.random.default_rng(3).standard_normal((9, 3, 20))


class Grouped:
    """A pretended engine whose second pass is `off` from its first by that share: other tokens, other groups."""

    def __init__(self, off: float) -> None:
        self.case, self.off, self.asked = Case(CPU, "transformers", "m", "fp32"), off, 0

    def score_prefill(self, prompts: TokenBatch, forced: Any) -> Scores:
        self.asked += 1
        noise = np.random.default_rng(self.asked).standard_normal(LOGITS.shape)
        return scores_of(LOGITS + self.off * noise * (self.asked > 1), FORCED)


def judged(off: float, *, of_experts: bool) -> Judgement:
    said: list[Judgement] = []

    def examples(check: Any, **_: Any) -> None:
        said.append(check(place=4, other=0))

    sample = ScoringSample(PROMPTS, FORCED, None, of_experts)
    cache.test_later_tokens_never_alter_earlier_logits(Grouped(off), sample, 20, examples)  # type: ignore[arg-type]
    return said[0]


@pytest.mark.parametrize(("off", "experts", "passes"), [(1e-7, True, True), (1e-7, False, False), (1e-2, True, False)])
def test_causality_promises_bits_where_there_are_no_experts(off: float, experts: bool, passes: bool) -> None:
    assert judged(off, of_experts=experts).passed is passes


def directory(where: Path, **config: Any) -> ModelSpec:
    where.mkdir()
    (where / "config.json").write_text(json.dumps({"model_type": "some", **config}))
    return ModelSpec(where.name, "directory", str(where), "some")


@pytest.mark.parametrize(
    "name", ["num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "num_routed_experts"]
)
def test_a_count_of_experts_has_many_names(tmp_path: Path, name: str) -> None:
    configs: dict[str, dict[str, Any]] = {
        "many": {name: 8},
        "inside": {"ffn_config": {name: 8}},
        "one": {name: 1},
        "none": {name: None, "num_experts_per_tok": 2, "n_shared_experts": 2, "moe_num_shared_experts": 2},
    }
    said = {where: weights.mixes_experts(directory(tmp_path / where, **config)) for where, config in configs.items()}
    assert said == {"many": True, "inside": True, "one": False, "none": False}


def test_no_embedded_model_is_taken_for_another() -> None:
    mixtures = {name for name in embedded.NAMES if weights.mixes_experts(resolve(name))}
    assert mixtures == {"qwen3_moe-tiny", "gpt_oss-tiny", "deepseek_v3-tiny", "qwen3_next-tiny"}


@pytest.mark.parametrize(("model", "experts"), [("qwen3_moe-tiny", True), ("llama-tiny", False)])
def test_a_sample_without_a_reference_knows_it(model: str, experts: bool) -> None:
    run = SimpleNamespace(
        references=SimpleNamespace(reference=lambda _: "none"),
        selection=SimpleNamespace(profile=SimpleNamespace(prompts="bloom")),
    )
    generator = SimpleNamespace(generate=lambda *_: SimpleNamespace(tokens=FORCED))
    made = texts.scoring_sample._get_wrapped_function()(run, Case(CPU, "transformers", model, "fp32"), generator)
    assert made.of_experts is experts
    assert made.few(2, 3).of_experts is experts
