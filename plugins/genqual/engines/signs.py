"""A text for each token of a model without a tokenizer: one sign a token, so that stop strings have something to stop.

`sign` is pure; the tokenizer is made in ranks only.
"""

from __future__ import annotations

from typing import Any, Final

_LETTERS: Final = "abcdef"  # transformers measures what a tokenizer puts between tokens with this very word
_FIRST: Final = 0x4E00  # signs that no tokenizer normalises or joins


def sign(token: int) -> str:
    """The one character that `token` stands for."""
    return _LETTERS[token] if token < len(_LETTERS) else chr(_FIRST + token)


def tokenizer_of_signs(vocabulary: int) -> Any:
    """A transformers tokenizer of `vocabulary` signs."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel({sign(token): token for token in range(vocabulary)}, unk_token=sign(0)))
    made.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    made.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=made)
