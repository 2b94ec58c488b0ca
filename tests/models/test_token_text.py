"""Text that stands for tokens is that of the tokenizer that lies there now."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers

from genqual.models import token_text
from genqual.models.registry import resolve
from tests.models.checkpoints import llama_tiny


def write(place: Path, *words: str) -> None:
    made = Tokenizer(models.WordLevel({word: token for token, word in enumerate(words)}, unk_token=words[0]))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.save(str(place / "tokenizer.json"))


def test_a_tokenizer_that_was_exchanged_is_read_again(tmp_path: Path) -> None:
    llama_tiny(tmp_path / "m")
    spec = resolve(str(tmp_path / "m"))
    write(tmp_path / "m", "?", "one", "two")
    assert token_text.text_of(spec, [1, 2]) == "one two"
    assert token_text.by_text(spec) == {"?": 0, "one": 1, "two": 2}
    assert token_text.tokenizer(spec) is token_text.tokenizer(spec), "read once while it stays"
    write(tmp_path / "m", "?", "two", "one", "three")
    assert token_text.text_of(spec, [1, 2]) == "two one"
    assert token_text.by_text(spec) == {"?": 0, "two": 1, "one": 2, "three": 3}
