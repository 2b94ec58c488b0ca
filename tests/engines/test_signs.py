"""A token without a tokenizer has a sign: each another, none that a tokenizer alters, cut apart in one way only."""

from __future__ import annotations

import json
import subprocess
import sys
import unicodedata
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import normalizers

from genqual.engines.remote.sign_tokenizer import LARGEST, sign, tokenizer_of_signs

MANY = 1_000_000
# Where one block of characters ends and the next one begins, the old end (surrogates) and today's largest vocabularies.
EDGES = [0, 5, 6, 20901, 20902, 27483, 27484, 35328, 37375, 70194, 70195, 75957, 128255, 151935, 262143, MANY - 1]
tokens = st.one_of(st.sampled_from(EDGES), st.integers(0, MANY - 1))


@pytest.fixture(scope="module")
def large() -> Any:
    """The real library's tokenizer of a vocabulary that needs both kinds of signs."""
    return tokenizer_of_signs(MANY)


def test_a_million_signs_are_a_million_texts_that_no_tokenizer_alters() -> None:
    texts = [sign(token) for token in range(MANY)]
    assert len(set(texts)) == MANY
    for character in set("".join(texts)):
        assert unicodedata.category(character) in ("Lo", "Ll"), f"U+{ord(character):X}"
        assert not unicodedata.combining(character)
        assert not character.isspace()
        for form in ("NFC", "NFD", "NFKC", "NFKD"):
            assert unicodedata.normalize(form, character) == character, f"U+{ord(character):X}"
    "".join(texts).encode("utf-8")  # surrogates cannot be


def test_a_text_of_signs_can_be_cut_in_one_way_only() -> None:
    """Of two characters, the first begins nothing else and the second nothing at all: so no sign begins within one."""
    texts = [sign(token) for token in range(MANY)]
    alone, firsts, seconds = (
        {t for t in texts if len(t) == 1},
        {t[0] for t in texts if t[1:]},
        {t[1] for t in texts if t[1:]},
    )
    assert not alone & firsts
    assert not alone & seconds
    assert not firsts & seconds
    assert max(map(len, texts)) == 2


def test_small_tokens_keep_the_signs_they_had() -> None:
    assert [sign(token) for token in range(8)] == ["a", "b", "c", "d", "e", "f", "\u4e06", "\u4e07"]
    assert all(sign(token) == chr(0x4E00 + token) for token in range(6, 20902))


@given(st.lists(tokens, min_size=1, max_size=20))
@settings(max_examples=200, deadline=None)
def test_what_signs_say_is_read_back_by_the_real_library(large: Any, ids: list[int]) -> None:
    text = "".join(map(sign, ids))
    assert large(text, add_special_tokens=False)["input_ids"] == ids
    assert large.decode(ids) == text


@given(st.lists(tokens, min_size=1, max_size=20))
@settings(max_examples=100, deadline=None)
def test_a_real_tokenizer_s_normalisers_leave_signs_alone(ids: list[int]) -> None:
    text = "".join(map(sign, ids))
    for one in (normalizers.NFKC(), normalizers.NFD(), normalizers.Strip(), normalizers.StripAccents()):
        assert one.normalize_str(text) == text


@pytest.mark.parametrize("token", [-1, LARGEST, LARGEST + 5])
def test_a_token_without_a_sign_is_named(token: int) -> None:
    with pytest.raises(ValueError, match=f"token {token}: signs are of tokens from 0 to {LARGEST - 1}"):
        sign(token)


def test_stop_strings_stop_where_the_vocabulary_is_large() -> None:
    """transformers' own criterion, with two-character signs beside one-character ones."""
    code = """
import json, torch
from transformers import StopStringCriteria
from genqual.engines.remote.sign_tokenizer import sign, tokenizer_of_signs
tokenizer = tokenizer_of_signs(75_000)
rows = [[7, 70_300, 70_301], [7, 70_300, 9], [35_328, 70_301, 35_329], [74_999, 35_328, 35_329]]
said = {}
for stop in ([70_300, 70_301], [35_328, 35_329], [70_301, 35_329], [9]):
    criterion = StopStringCriteria(tokenizer, ["".join(map(sign, stop))])
    said[str(stop)] = criterion(torch.tensor(rows), None).tolist()
print(json.dumps(said))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "[70300, 70301]": [True, False, False, False],
        "[35328, 35329]": [False, False, False, True],
        "[70301, 35329]": [False, False, True, False],
        "[9]": [False, True, False, False],
    }
