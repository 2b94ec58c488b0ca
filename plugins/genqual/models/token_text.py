"""Text that stands for tokens, one to one where the model allows: for servers that take and give text only. No torch.

An embedded model has no language, so each of its tokens is written as one character of Unicode's private use area:
any text of them is read back as the tokens it came from, through whichever server. `export` writes such a model as a
directory that servers load. A real model's tokenizer is used as it is, and every round trip is checked.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from tokenizers import Regex, Tokenizer, decoders
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split

from genqual.errors import BadInput, EngineFailed, Unsupported
from genqual.models import embedded, weights
from genqual.models.spec import ModelSpec
from genqual.models.tokenizer_file import explained, tokenizer_of

FIRST: Final = 0xE000  # the private use area, U+E000 to U+F8FF: 6400 characters without any meaning
SIZE: Final = 6400


@lru_cache(maxsize=4)
def _private(vocabulary: int) -> Any:
    return private_tokenizer(vocabulary)


def private_tokenizer(vocabulary: int) -> Any:
    """The tokenizer that writes token i as the character U+E000 + i. Raises Unsupported above 6400 tokens."""
    if vocabulary > SIZE:
        raise Unsupported(f"{vocabulary} tokens do not fit the {SIZE} characters of the private use area")
    made = Tokenizer(WordLevel({chr(FIRST + token): token for token in range(vocabulary)}))
    made.pre_tokenizer = Split(Regex("."), "isolated")
    made.decoder = decoders.Fuse()
    return made


def tokenizer(spec: ModelSpec) -> Any:
    """The tokenizer by which a server's text becomes tokens. Raises Unsupported where the model has none here.

    That of a file is read again where the file has changed.
    """
    if spec.source == "embedded":
        return _private(embedded.size(embedded.config(spec.location), "vocab_size"))
    file = Path(spec.location) / "tokenizer.json"
    if not file.is_file():
        raise Unsupported(
            f"model {spec.name}: no tokenizer.json in {file.parent}, so a server's text cannot be read as tokens; "
            "put it there, or use a server that gives token ids"
        )
    return tokenizer_of(file)


def _using(spec: ModelSpec) -> AbstractContextManager[None]:
    """Around a call of the tokenizer: what it raises becomes BadInput."""
    return explained(f"model {spec.name}: its tokenizer.json cannot be used", "mend or replace the file")


def text_of(spec: ModelSpec, row: Sequence[int]) -> str:
    """The text that a server will read as exactly `row`. Raises Unsupported when no text does."""
    known = tokenizer(spec)
    with _using(spec):
        text = str(known.decode(list(row), skip_special_tokens=False))
        back = known.encode(text, add_special_tokens=False).ids
    if back != list(row):
        raise Unsupported(
            f"model {spec.name}: no text stands for exactly the {len(row)} tokens {list(row)[:4]}..., and this server "
            "takes text only; use one that takes token ids"
        )
    return text


def tokens_of(spec: ModelSpec, prompt: str, text: str) -> tuple[list[int], list[int]]:
    """The tokens of `text` as it follows `prompt`, and where each ends, in characters of `text`.

    Raises EngineFailed on a text that no tokens stand for.
    """
    known = tokenizer(spec)
    with _using(spec):
        before = len(known.encode(prompt, add_special_tokens=False).ids)
    try:
        whole = known.encode(prompt + text, add_special_tokens=False)
    except Exception as error:  # tokenizers raises no narrower class
        raise EngineFailed(f"no tokens of {spec.name} stand for the text {text[:40]!r} ({error})") from error
    return list(whole.ids[before:]), [end - len(prompt) for _, end in whole.offsets[before:]]


def by_text(spec: ModelSpec) -> dict[str, int]:
    """Text -> the token that alone is written so; a text of several tokens is left out. Raises as `tokenizer` does."""
    return _by_text(spec, tokenizer(spec))


@lru_cache(maxsize=4)
def _by_text(spec: ModelSpec, known: Any) -> dict[str, int]:  # a tokenizer is equal to itself alone
    with _using(spec):
        texts = [str(known.decode([token], skip_special_tokens=False)) for token in range(known.get_vocab_size())]
    often = Counter(texts)
    return {text: token for token, text in enumerate(texts) if text and often[text] == 1}


def export(spec: ModelSpec, directory: Path) -> Path:
    """Write an embedded model as a checkpoint directory with a tokenizer, for any server. Raises BadInput."""
    if spec.source != "embedded":
        raise BadInput(f"model {spec.name}: only embedded models are written; it is in {spec.location} already")
    if directory.exists() and any(directory.iterdir()):
        raise BadInput(f"{directory}: not empty; name a new directory")
    known = tokenizer(spec)
    shutil.copytree(weights.directory(spec), directory, dirs_exist_ok=True)
    known.save(str(directory / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": embedded.POSITIONS,
        "model_input_names": ["input_ids", "attention_mask"],
        "chat_template": "{% for message in messages %}{{ message['content'] }}{% endfor %}",
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    (directory / "generation_config.json").write_text(json.dumps({"do_sample": False, "pad_token_id": 0}) + "\n")
    return directory
