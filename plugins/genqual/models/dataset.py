"""Dataset mode: prompts from a file or a dataset, prompt-completion pairs to a JSONL that a killed run goes on with.

Pure: the standard library; the package `datasets` only when a dataset is named.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self

from genqual import digest
from genqual.errors import BadInput
from genqual.models import prompt_files
from genqual.models.chat import Prompt, Render
from genqual.models.prompt_files import FILES

__all__ = ["FILES", "PairWriter", "check_not_empty", "is_file", "read_prompts", "source_identity"]


def read_prompts(
    source: str, *, split: str | None = None, column: str | None = None, render: Render | None = None
) -> Iterator[Prompt]:
    """The prompts of a file (FILES, packed or not), each with an optional `:column`, or of a dataset, in order.

    Without a column it is the first of prompt, text, content, messages and conversations, or the only one; a dotted one
    leads into nested fields (`:conversations.0.value`). `render` makes a prompt of a conversation. `split` (default
    train) is read for datasets only. Raises BadInput at once when the file or the package is missing, and naming the
    line when one is bad.
    """
    path, given = prompt_files.split(source)
    column = column if column is not None else given
    if not path.is_file() and prompt_files.kind_of(path) is None:
        return _dataset(source, split or "train", column, render)
    if split is not None:
        raise BadInput(f"prompts {source}: a file has no split ({split}); leave it out")
    if not path.is_file():
        raise BadInput(f"prompts {source}: no such file; known are files {', '.join(FILES)} and names of `datasets`")
    return prompt_files.prompts_of(path, column, render)


def source_identity(source: str, *, split: str | None = None) -> str:
    """What tells the content of `source` from every other's: a file's SHA-256, or a dataset's own fingerprint."""
    path, column = prompt_files.split(source)
    named = f" {column}" if column else ""
    if path.is_file():
        return f"sha256:{digest.of_file(path)}{named}"
    rows = _rows(source, split or "train")
    fingerprint = getattr(rows, "_fingerprint", None) or _digest(rows)
    return f"{source} {split or 'train'} {fingerprint}"


def is_file(source: str) -> bool:
    """Whether `source` is a file, there or not, and no dataset's name."""
    path, _ = prompt_files.split(source)
    return path.is_file() or prompt_files.kind_of(path) is not None


def check_not_empty(prompt: Prompt) -> None:
    """Raises BadInput on a prompt without a character."""
    if not prompt:
        raise BadInput(f"prompts {prompt.where}: an empty prompt, and a prompt needs a token at least; remove it")


def _dataset(name: str, split: str, column: str | None, render: Render | None) -> Iterator[Prompt]:
    rows = _rows(name, split)
    return (prompt_files.field(row, column, f"{name}, row {index}", render) for index, row in enumerate(rows))


def _rows(name: str, split: str) -> Iterable[Mapping[str, object]]:
    if find_spec("datasets") is None:
        raise BadInput(
            f"prompts {name!r}: no file of type {', '.join(FILES)}, and reading it as a dataset needs the package "
            "`datasets`: pip install datasets"
        )
    import datasets

    try:
        rows: Iterable[Mapping[str, object]] = datasets.load_dataset(name, split=split)
    except (OSError, ValueError) as error:  # what `datasets` raises for unknown names, splits and no network
        first = str(error).strip().splitlines()[0]
        raise BadInput(f"prompts {name!r}, split {split}: `datasets` cannot load it ({first})") from error
    return rows


def _digest(rows: Iterable[Mapping[str, object]]) -> str:
    """Of rows that bring no fingerprint of their own."""
    lines = (json.dumps(row, sort_keys=True, default=str).encode() + b"\n" for row in rows)
    return f"sha256:{digest.of_parts(lines)}"


class PairWriter:
    """Appends prompt-completion pairs to a JSONL file, one object a line, in order; a killed run goes on where it was.

    Each line is `{index, fingerprint, prompt, input_ids, tokens, text}`, flushed to the system when `append` returns. A
    last line without its end is dropped on opening. `fingerprint` says what made the pairs (weights, engine, versions,
    source): a file of another one raises BadInput, as does a file that is no such list of pairs. `differs` says in
    which facts two fingerprints do.
    """

    def __init__(self, path: Path, fingerprint: str, differs: Callable[[str, str], str] | None = None) -> None:
        """Open or create `path` and find out how many pairs it holds."""
        self._path, self._fingerprint, self._differs = path, fingerprint, differs
        path.parent.mkdir(parents=True, exist_ok=True)
        self._stream = path.open("a+b")
        try:
            self._next = self._recover()
        except BaseException:
            self._stream.close()
            raise

    @property
    def next_index(self) -> int:
        """The index of the pair to append next: how many are safely there."""
        return self._next

    def append(self, prompt: str, input_ids: Sequence[int], tokens: Sequence[int], text: str) -> None:
        """Write the next pair: what was asked, as text and tokens, and what came, as tokens and text."""
        pair = {
            "index": self._next,
            "fingerprint": self._fingerprint,
            "prompt": prompt,
            "input_ids": [int(token) for token in input_ids],
            "tokens": [int(token) for token in tokens],
            "text": text,
        }
        self._stream.write(json.dumps(pair, ensure_ascii=False).encode() + b"\n")
        self._stream.flush()
        self._next += 1

    def close(self) -> None:
        """Force everything to the disk and close the file."""
        if not self._stream.closed:
            os.fsync(self._stream.fileno())
            self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _recover(self) -> int:
        count = whole = 0
        self._stream.seek(0)
        for line in self._stream:
            if not line.endswith(b"\n"):
                break
            self._check(line, count)
            count, whole = count + 1, whole + len(line)
        self._stream.truncate(whole)
        self._stream.seek(0, os.SEEK_END)
        return count

    def _check(self, line: bytes, index: int) -> None:
        try:
            pair = json.loads(line)
            found, made_by = pair["index"], pair["fingerprint"]
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput(f"{self._path}, line {index + 1}: not a pair ({error}); move the file away") from error
        if made_by != self._fingerprint:
            where = self._differs(made_by, self._fingerprint) if self._differs and isinstance(made_by, str) else ""
            facts = f"another run. They differ in: {where}" if where else f"{made_by}, this run is {self._fingerprint}"
            raise BadInput(
                f"{self._path}: holds pairs of {facts}. It is not gone on with: move the file away to generate anew"
            )
        if found != index:
            raise BadInput(f"{self._path}, line {index + 1}: pair {found} is out of order; move the file away")
