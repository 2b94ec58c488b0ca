"""Prompt sets, and tokens to text and back. NumPy and `tokenizers` only: `transformers` would import torch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import numpy as np

from genqual.errors import BadInput, NotApplicable
from genqual.models import embedded, gguf_tokenizer, prompt_texts
from genqual.models.spec import ModelSpec
from genqual.models.tokenizer_file import explained, tokenizer_of


@dataclass(frozen=True, slots=True)
class PromptSet:
    """Texts to go on from; `labels` name them in ids: a number, a language code, a programming language."""

    name: str
    texts: tuple[str, ...]
    labels: tuple[str, ...]


_SETS: Final[dict[str, PromptSet]] = {
    "bloom": PromptSet("bloom", prompt_texts.BLOOM, tuple(map(str, range(len(prompt_texts.BLOOM))))),
    "languages": PromptSet("languages", tuple(prompt_texts.LANGUAGES.values()), tuple(prompt_texts.LANGUAGES)),
    "code": PromptSet("code", tuple(prompt_texts.CODE.values()), tuple(prompt_texts.CODE)),
}


_SPACE: Final = "\u0120\u2581"  # how byte-level and SentencePiece vocabularies write a space


def prompt_set(name: str) -> PromptSet:
    """`bloom` (the eight of the BLOOM scripts), `languages` (46) or `code` (13). Raises BadInput on another name."""
    if name not in _SETS:
        raise BadInput(f"prompt set {name!r}: genqual has {', '.join(_SETS)}")
    return _SETS[name]


def token_rows(spec: ModelSpec, texts: Sequence[str], *, max_tokens: int | None = None) -> list[list[int]]:
    """The tokens of each text, at most the first `max_tokens`. Embedded models read bytes, byte b as token b + 3.

    A real model's tokenizer.json decides, special first tokens included; a rendered conversation has them already.
    Raises BadInput when it has none, or when a text gives no token at all.
    """
    if max_tokens is not None and max_tokens < 1:
        raise BadInput(f"max_tokens {max_tokens}: must be at least 1")
    encode = _bytes_of if _of_bytes(spec) else _encoder(spec)
    rows = [encode(text)[:max_tokens] for text in texts]
    for index, row in enumerate(rows):
        if not row:
            where = getattr(texts[index], "where", "") or f"prompt {index}"
            raise BadInput(f"{where} ({str(texts[index])!r}): no token at all; a prompt needs at least one")
    return rows


def doubled_first(spec: ModelSpec, text: str) -> str | None:
    """The token that `text` begins with and the tokenizer puts before it once more; None where it does not.

    So do texts that a chat template rendered, or a program that writes the first token out.
    """
    if _of_bytes(spec) or getattr(text, "rendered", False):
        return None
    tokenizer = _tokenizer(spec)
    plain, whole = tokenizer.encode(text, add_special_tokens=False).ids, tokenizer.encode(text).ids
    if not plain or whole[:2] != [plain[0]] * 2 or plain[:2] == whole[:2]:
        return None
    return str(tokenizer.id_to_token(plain[0]))


def decode(spec: ModelSpec, ids: Iterable[int]) -> str:
    """Text of tokens. A token that stands for no text shows as `<817>`, a byte outside UTF-8 as `\\xff`."""
    if _of_bytes(spec):
        return _shown(ids, _is_byte, _text_of_bytes)
    tokenizer = _tokenizer(spec)
    with _using(spec, "decode tokens"):
        return _shown(
            ids,
            lambda token: tokenizer.id_to_token(token) is not None,
            lambda run: str(tokenizer.decode(run, skip_special_tokens=False)),
        )


def lost_texts(spec: ModelSpec, texts: Sequence[str]) -> list[tuple[str, str]]:
    """Texts that do not survive the way to tokens and back, each with what came of it.

    A tokenizer that normalises declares it: it is held to a text that normalises alike, as spaces do that it writes as
    U+2581 and turns back. So does one that puts a space before each text (`add_prefix_space`). Raises BadInput
    without a tokenizer.
    """
    found = []
    for text in texts:
        with _using(spec, "encode a text"):
            ids, normal = _encoded(spec, text)
        back = decode(spec, ids)
        if normal(back) != normal(text):
            found.append((text, back))
    return found


def _encoded(spec: ModelSpec, text: str) -> tuple[list[int], Callable[[str], str]]:
    """Tokens of a text, without special ones, and how its tokenizer normalises a text."""
    if _of_bytes(spec):
        return _bytes_of(text), str
    tokenizer = _tokenizer(spec)
    declared, split = tokenizer.normalizer, tokenizer.pre_tokenizer
    ids = list(tokenizer.encode(text, add_special_tokens=False).ids)
    prefixed = split is not None and split.pre_tokenize_str("a")[0][0][0] in _SPACE

    def normal(one: str) -> str:
        one = one if declared is None else declared.normalize_str(one)
        return f" {one}" if prefixed and not one.startswith(" ") else one

    return ids, normal


def has_tokenizer(spec: ModelSpec) -> bool:
    """Whether `decode` knows the model's texts: a directory that holds a tokenizer.json, a GGUF file with its words."""
    if spec.source == "gguf":
        return gguf_tokenizer.has_language(spec)
    return spec.source == "directory" and (Path(spec.location) / "tokenizer.json").is_file()


def require_tokenizer(spec: ModelSpec) -> ModelSpec:
    """`spec`, if texts can be given to it. Raises NotApplicable where the model has no tokenizer here.

    A tokenizer that is there and broken is not this: its use raises BadInput, which fails a test.
    """
    if spec.source != "embedded" and not has_tokenizer(spec):
        raise NotApplicable(f"no tokenizer.json beside model {spec.name}: it cannot read a text")
    return spec


def special_ids(spec: ModelSpec) -> frozenset[int]:
    """Ids that stand for no text (an end, a role, a file's mark), as the tokenizer declares; without one, none."""
    if _of_bytes(spec):
        return frozenset()
    try:
        added = _tokenizer(spec).get_added_tokens_decoder()
    except BadInput:
        return frozenset()
    return frozenset(int(token) for token, how in added.items() if how.special)


def synthetic_rows(vocabulary: int, rows: int, length: int, seed: int) -> list[list[int]]:
    """`rows` x `length` token ids in [3, vocabulary), the same on every machine: the input of a latency workload.

    Drawn modulo from 32-bit words of SHAKE-128; the bias is below vocabulary / 2^32. Raises BadInput on an empty range.
    """
    if vocabulary <= embedded.BYTE_OFFSET or rows < 1 or length < 1:
        raise BadInput(f"synthetic prompts of vocabulary {vocabulary}, {rows} rows, length {length}: nothing to draw")
    found = []
    for row in range(rows):  # a stream a row, so that more rows or a longer length keep what was there
        stream = hashlib.shake_128(f"genqual/prompt/{seed}/{row}".encode()).digest(4 * length)
        words = np.frombuffer(stream, dtype="<u4") % np.uint32(vocabulary - embedded.BYTE_OFFSET)
        found.append([int(word) + embedded.BYTE_OFFSET for word in words])
    return found


def _of_bytes(spec: ModelSpec) -> bool:
    """Whether tokens are bytes: of an embedded model, and of a GGUF file that says it has no language, as theirs."""
    return spec.source == "embedded" or (spec.source == "gguf" and not gguf_tokenizer.has_language(spec))


def _bytes_of(text: str) -> list[int]:
    return [byte + embedded.BYTE_OFFSET for byte in text.encode()]


def _is_byte(token: int) -> bool:
    return embedded.BYTE_OFFSET <= token < embedded.BYTE_OFFSET + 256


def _text_of_bytes(run: Sequence[int]) -> str:
    return bytes(token - embedded.BYTE_OFFSET for token in run).decode(errors="backslashreplace")


def _shown(ids: Iterable[int], has_text: Callable[[int], bool], text_of: Callable[[list[int]], str]) -> str:
    pieces = [
        text_of(list(run)) if readable else "".join(f"<{token}>" for token in run)
        for readable, run in groupby(map(int, ids), has_text)
    ]
    return "".join(pieces)


def _encoder(spec: ModelSpec) -> Callable[[str], list[int]]:
    tokenizer = _tokenizer(spec)

    def encode(text: str) -> list[int]:
        with _using(spec, "encode a text"):
            return list(tokenizer.encode(text, add_special_tokens=not getattr(text, "rendered", False)).ids)

    return encode


def _tokenizer(spec: ModelSpec) -> Any:
    if spec.source == "gguf":
        return tokenizer_of(gguf_tokenizer.tokenizer_json(spec))
    if spec.source != "directory":
        raise BadInput(
            f"model {spec.name}: a {spec.source} model has no tokenizer.json here; use a checkpoint directory"
        )
    file = Path(spec.location) / "tokenizer.json"
    if not file.is_file():
        raise BadInput(
            f"model {spec.name}: no tokenizer.json in {file.parent}; copy it there, or give prompts as tokens"
        )
    return tokenizer_of(file)


def _using(spec: ModelSpec, doing: str) -> AbstractContextManager[None]:
    """Around a call of the model's tokenizer: what it raises becomes BadInput."""
    return explained(f"model {spec.name}: its tokenizer.json cannot {doing}", "mend or replace the file")
