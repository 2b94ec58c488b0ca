"""A text for each token of a model without a tokenizer: one sign a token, so that stop strings have something to stop.

A sign is one ideograph, or two where a vocabulary has more tokens than there are ideographs. `sign` is pure; the
tokenizer is made in ranks only.
"""

from __future__ import annotations

from typing import Any, Final

_LETTERS: Final = "abcdef"  # transformers measures what a tokenizer puts between tokens with this very word

# Ideographs only: a tokenizer neither strips, joins nor normalises them, as it does surrogates, marks, compatibility
# forms and private or unassigned characters. Each block ends where Unicode has assigned characters for a decade.
_ONE: Final = (range(0x4E00, 0x9FA6), range(0x3400, 0x4DB6), range(0x20000, 0x2A6D7))
# No sign of one character, and no second character, is a first one: a text is cut into its signs in one way only.
_FIRST: Final = range(0x2A700, 0x2B735)
_SECOND: Final = range(0x2B820, 0x2CEA2)
_SINGLES: Final = sum(map(len, _ONE))

LARGEST: Final = _SINGLES + len(_FIRST) * len(_SECOND)
"""So many tokens have signs."""


def sign(token: int) -> str:
    """The one or two characters that `token` stands for. Raises ValueError outside 0 to LARGEST - 1."""
    if not 0 <= token < LARGEST:
        raise ValueError(f"token {token}: signs are of tokens from 0 to {LARGEST - 1}")
    if token < len(_LETTERS):
        return _LETTERS[token]
    for block in _ONE:
        if token < len(block):
            return chr(block[token])
        token -= len(block)
    first, second = divmod(token, len(_SECOND))
    return chr(_FIRST[first]) + chr(_SECOND[second])


def tokenizer_of_signs(vocabulary: int) -> Any:
    """A transformers tokenizer of `vocabulary` signs. Raises ValueError where there are too few of them."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel({sign(token): token for token in range(vocabulary)}, unk_token=sign(0)))
    pair = f"[{chr(_FIRST[0])}-{chr(_FIRST[-1])}][{chr(_SECOND[0])}-{chr(_SECOND[-1])}]"
    made.pre_tokenizer = pre_tokenizers.Split(Regex(f"{pair}|."), "isolated")
    made.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=made)
