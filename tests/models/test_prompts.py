"""Prompts, and tokens to text and back: bytes for embedded models, tokenizer.json for real ones."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from genqual.errors import BadInput
from genqual.models import prompts
from genqual.models.registry import resolve
from genqual.models.spec import ModelSpec

from .checkpoints import checkpoint

EMBEDDED = resolve("llama-tiny")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(TEXT)
def test_bytes_come_back(text: str) -> None:
    (row,) = prompts.token_rows(EMBEDDED, [text])
    assert [token - 3 for token in row] == list(text.encode())
    assert prompts.decode(EMBEDDED, row) == text


@given(st.lists(st.integers(0, 1023)))
def test_any_tokens_at_all_can_be_shown(ids: list[int]) -> None:
    text = prompts.decode(EMBEDDED, ids)
    text.encode()
    assert all(f"<{token}>" in text for token in ids if not 3 <= token < 259)


def test_unknown_tokens_and_torn_characters_are_visible() -> None:
    euro = [byte + 3 for byte in "€".encode()]
    assert prompts.decode(EMBEDDED, [258, 259]) == "\\xff<259>"
    assert prompts.decode(EMBEDDED, [72 + 3, 817, 0, *euro, 105 + 3, *euro[:1]]) == "H<817><0>€i\\xe2"


def test_numpy_tokens_are_tokens() -> None:
    assert prompts.decode(EMBEDDED, np.array([75, 817])) == "H<817>"


def test_rows_are_cut_to_the_first_tokens() -> None:
    assert prompts.token_rows(EMBEDDED, ["abcdef", "x"], max_tokens=2) == [[100, 101], [123]]


@pytest.mark.parametrize(("texts", "limit", "told"), [(["a", ""], None, "prompt 1"), (["a"], 0, "at least 1")])
def test_a_prompt_without_a_token_is_refused(texts: list[str], limit: int | None, told: str) -> None:
    with pytest.raises(BadInput, match=told):
        prompts.token_rows(EMBEDDED, texts, max_tokens=limit)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    """A directory with a byte-level BPE tokenizer that puts <s> first and was left with padding and truncation on."""
    directory = tmp_path_factory.mktemp("real") / "m"
    checkpoint(directory, {"w": np.zeros(3, dtype=np.float32)}, {"model_type": "llama"})
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    texts = [text for name in ("bloom", "languages", "code") for text in prompts.prompt_set(name).texts]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=400, special_tokens=["<s>"], initial_alphabet=alphabet, show_progress=False),
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=64)
    tokenizer.save(str(directory / "tokenizer.json"))
    return resolve(str(directory))


def test_marks_are_those_that_the_tokenizer_declares(real: ModelSpec, tmp_path: Path) -> None:
    assert prompts.special_ids(real) == {0}
    assert prompts.special_ids(EMBEDDED) == frozenset()
    bare = checkpoint(tmp_path / "bare", {"w": np.zeros(3, dtype=np.float32)}, {"model_type": "llama"})
    assert prompts.special_ids(resolve(str(bare))) == frozenset(), "nobody says which they are"


@pytest.mark.parametrize("name", ["bloom", "languages", "code"])
def test_a_real_tokenizer_round_trips_every_prompt(real: ModelSpec, name: str) -> None:
    texts = prompts.prompt_set(name).texts
    for text, row in zip(texts, prompts.token_rows(real, texts), strict=True):
        assert row[0] == 0, "the tokenizer's own first token"
        assert row.count(0) == 1, "padding left on"
        assert prompts.decode(real, row) == f"<s>{text}"


def test_a_token_the_tokenizer_lacks_is_visible(real: ModelSpec) -> None:
    assert prompts.decode(real, [*prompts.token_rows(real, ["Peace"])[0], 49151]) == "<s>Peace<49151>"


def test_a_model_without_a_tokenizer_says_so(tmp_path: Path) -> None:
    made = checkpoint(tmp_path / "m", {"w": np.zeros(3, dtype=np.float32)}, {"model_type": "llama"})
    with pytest.raises(BadInput, match=r"no tokenizer\.json"):
        prompts.token_rows(resolve(str(made)), ["a"])
    (made / "tokenizer.json").write_text("{}")
    with pytest.raises(BadInput, match="not a tokenizer"):
        prompts.token_rows(resolve(str(made)), ["a"])
    with pytest.raises(BadInput, match="a hub model has no"):
        prompts.decode(resolve("org/name"), [1])


@pytest.mark.parametrize(("name", "count"), [("bloom", 8), ("languages", 46), ("code", 13)])
def test_the_sets_are_whole(name: str, count: int) -> None:
    found = prompts.prompt_set(name)
    assert found.name == name
    assert len(set(found.labels)) == len(set(found.texts)) == len(found.texts) == count


def test_the_bloom_prompts_are_those_that_were_published() -> None:
    joined = "\n".join(prompts.prompt_set("bloom").texts).encode()
    assert hashlib.sha256(joined).hexdigest() == "c177778b9a1d67e5ed26a9b4688ef88c60b61f9c24cd68439d3b4dade63fa9f9"


def test_an_unknown_set_is_refused() -> None:
    with pytest.raises(BadInput, match="bloom, languages, code"):
        prompts.prompt_set("poems")


def test_synthetic_rows_are_what_the_rule_says() -> None:
    stream = hashlib.shake_128(b"genqual/prompt/5/1").digest(4 * 9)
    expected = [int.from_bytes(stream[at : at + 4], "little") % 1021 + 3 for at in range(0, 36, 4)]
    assert prompts.synthetic_rows(1024, 2, 9, seed=5)[1] == expected


@given(st.integers(4, 300_000), st.integers(1, 4), st.integers(1, 40), st.integers(0, 99))
def test_synthetic_rows_keep_what_was_there_when_they_grow(vocabulary: int, rows: int, length: int, seed: int) -> None:
    found = prompts.synthetic_rows(vocabulary, rows, length, seed)
    assert [len(row) for row in found] == [length] * rows
    assert all(3 <= token < vocabulary for row in found for token in row)
    larger = prompts.synthetic_rows(vocabulary, rows + 1, length + 3, seed)
    assert [row[:length] for row in larger[:rows]] == found


def test_seeds_and_rows_differ() -> None:
    rows = prompts.synthetic_rows(50_000, 3, 64, seed=1) + prompts.synthetic_rows(50_000, 3, 64, seed=2)
    assert len({tuple(row) for row in rows}) == 6


@pytest.mark.parametrize(("vocabulary", "rows", "length"), [(3, 1, 1), (9, 0, 1), (9, 1, 0)])
def test_nothing_to_draw_is_refused(vocabulary: int, rows: int, length: int) -> None:
    with pytest.raises(BadInput, match="nothing to draw"):
        prompts.synthetic_rows(vocabulary, rows, length, seed=0)
