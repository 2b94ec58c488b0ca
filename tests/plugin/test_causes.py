"""One cause is told once: by the first test in full, without a traceback of ours; by each other in a line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from genqual.errors import BadInput, EngineFailed
from genqual.models import embedded, prompts, token_text
from genqual.models.registry import resolve
from genqual.ranks.errors import GroupLost
from genqual.session.failure_message import Causes
from tests.here import CPU
from tests.models.checkpoints import llama_tiny
from tests.plugin.suite import suite

ALONE = ("-m", CPU, "--engine", "transformers", "--dtype", "fp32", "--no-upload")


def failures(said: str) -> dict[str, list[str]]:
    """What stands under FAILURES and ERRORS, by test: lines without pytest's headings."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in said.partition("short test summary info")[0].splitlines():
        heading = re.fullmatch(r"_+ (?:ERROR at (?:setup|teardown) of )?(test_\S+) _+", line)
        name = heading[1] if heading else "" if line.startswith("====") else name
        if name and not heading and line.strip():
            found.setdefault(name, []).append(line)
    return found


def test_a_checkpoint_of_another_architecture_is_told_once_and_tried_once(tmp_path: Path) -> None:
    """BLOOM's config beside Llama's weights."""
    broken = llama_tiny(tmp_path / "broken")
    (broken / "config.json").write_text(json.dumps(embedded.config("bloom-tiny")))
    run = suite(tmp_path, *ALONE, f"--model={broken}", "-k", "greedy or repeat or batching", timeout=500)
    assert run.returncode == 1, run.stdout + run.stderr
    assert "Traceback" not in run.stdout
    told = failures(run.stdout)
    assert len(told) > 8, run.stdout
    whole = [text for text in told.values() if not text[0].startswith("see suites/")]
    assert len(whole) == 1, run.stdout
    assert len(whole[0]) == 1, "one paragraph"
    assert "the checkpoint and BloomForCausalLM disagree" in whole[0][0]
    for text in told.values():
        if text is not whole[0]:
            assert len(text) == 1
            assert re.match(rf"see suites/conformance/test_\w+\.py::test_\w+\[{CPU}-.*\]: BadInput: ", text[0]), text
            assert len(text[0]) < 400
    assert len(list((tmp_path / "logs").glob("*/*"))) == 1, "one group of ranks was started, and no other"


def test_an_engine_s_own_exception_while_loading_is_a_paragraph(tmp_path: Path) -> None:
    """transformers raises on a config that it cannot make a model of: a ValueError or the like, with its stack."""
    broken = llama_tiny(tmp_path / "broken", num_attention_heads=0, num_key_value_heads=0)
    run = suite(tmp_path, *ALONE, f"--model={broken}", "-k", "bits or one_token", timeout=500)
    assert run.returncode == 1, run.stdout + run.stderr
    assert "Traceback (most" not in run.stdout
    whole = [text for text in failures(run.stdout).values() if not text[0].startswith("see suites/")]
    assert len(whole) == 1, run.stdout
    assert re.search(r"EngineFailed: .*: loading failed: \w+: .*Traceback: .*rank0\.log", whole[0][0])


def unknown_words(file: Path) -> None:
    """A tokenizer that knows one word and has none for all others: its `encode` raises."""
    Tokenizer(WordLevel({"one": 0})).save(str(file))


def torn(file: Path) -> None:
    file.write_text('{"version": "1.0", "model": ')


@pytest.mark.parametrize("damage", [unknown_words, torn])
def test_a_broken_tokenizer_is_told_once_without_a_traceback(damage: Any, tmp_path: Path) -> None:
    model = llama_tiny(tmp_path / "mine")
    damage(model / "tokenizer.json")
    run = suite(
        tmp_path, *ALONE, f"--model={model}", "-k", "languages or rare_texts or one_token or data_set", timeout=500
    )
    assert run.returncode == 1, run.stdout + run.stderr
    assert "Traceback" not in run.stdout
    told = failures(run.stdout)
    assert {name.partition("[")[0] for name in told} >= {
        "test_texts_of_46_languages_round_trip",
        "test_rare_texts_are_read_like_any_other",
        "test_a_data_set_equals_its_prompts_one_by_one",
    }, run.stdout
    assert all(len(text) == 1 for text in told.values()), run.stdout
    assert any("BadInput: " in text[0] and "tokenizer" in text[0] for text in told.values())


@pytest.mark.parametrize("damage", [unknown_words, torn])
def test_every_use_of_a_broken_tokenizer_says_what_is_broken(damage: Any, tmp_path: Path) -> None:
    model = llama_tiny(tmp_path / "mine")
    damage(model / "tokenizer.json")
    spec = resolve(str(model))
    uses: list[Any] = [
        lambda: prompts.token_rows(spec, ["two words"]),
        lambda: prompts.lost_texts(spec, ["two words"]),
        lambda: token_text.tokens_of(spec, "two", "words"),
    ]
    for use in uses:
        with pytest.raises(BadInput, match=r"tokenizer.*(mend or replace|download it again)"):
            use()


def lost(text: str) -> GroupLost:
    return GroupLost(text, None)


def test_what_was_told_is_named_and_what_was_not_is_told() -> None:
    causes = Causes()
    torn = BadInput("cpu-a: the checkpoint is torn\nand so on")
    assert causes.words(torn, "test_1") == "BadInput: cpu-a: the checkpoint is torn\nand so on"
    assert causes.words(BadInput(str(torn)), "test_2") == "see test_1: BadInput: cpu-a: the checkpoint is torn"
    assert causes.words(torn, "test_1").endswith("and so on"), "the test that told it tells it again"
    assert causes.words(EngineFailed(str(torn)), "test_3").startswith("EngineFailed"), "another kind of error"
    assert causes.words(BadInput("cpu-b: the checkpoint is torn"), "test_4").startswith("BadInput"), "another case"
    long = causes.words(BadInput("x" * 999), "test_5"), causes.words(BadInput("x" * 999), "test_6")
    assert len(long[0]) > 999
    assert len(long[1]) < 200


def test_one_cause_met_by_two_calls_is_one() -> None:
    causes = Causes()
    errors = [EngineFailed(f"cpu-a: RuntimeError: no (`{method}`)\n...") for method in ("generate", "score", "score")]
    for error in errors:
        error.cause = "RuntimeError: no, in line 7"
    errors[2].cause = "RuntimeError: no, in line 8"
    said = [causes.words(error, f"test_{number}") for number, error in enumerate(errors)]
    assert [text.startswith("see test_0: ") for text in said] == [False, True, False]


def test_two_lost_groups_are_two_events() -> None:
    causes = Causes()
    kept = lost("rank 0 died")
    said = [causes.words(error, f"test_{n}") for n, error in enumerate([kept, lost("rank 0 died"), kept])]
    assert said[:2] == ["GroupLost: rank 0 died"] * 2
    assert said[2] == "see test_0: GroupLost: rank 0 died"
