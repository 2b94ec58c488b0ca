"""Dataset mode: prompts from a file or a dataset, prompt-completion pairs to a JSONL that a killed run goes on with.

Pure: the standard library; the package `datasets` only when a dataset is named.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from genqual.errors import BadInput

FILES: Final = (".jsonl", ".txt", ".csv")
_USUAL_COLUMNS: Final = ("prompt", "text", "content")


def read_prompts(source: str, *, split: str | None = None, column: str | None = None) -> Iterator[str]:
    """The prompts of FILE.jsonl, FILE.txt (a line each), FILE.csv, each with an optional `:column`, or of a dataset.

    Without a column it is the first of prompt, text and content, or the only one. `split` (default train) is read for
    datasets only. Raises BadInput at once when the file or the package is missing, and naming the line when one is bad.
    """
    name, _, given = source.rpartition(":") if ":" in source else (source, "", "")
    if given and Path(name).suffix in FILES and not Path(source).exists():
        source, column = name, column or given
    path = Path(source).expanduser()
    if path.suffix not in FILES:
        return _dataset(source, split or "train", column)
    if split is not None:
        raise BadInput(f"prompts {source}: a file has no split ({split}); leave it out")
    if not path.is_file():
        raise BadInput(f"prompts {source}: no such file; known are files .jsonl, .txt, .csv and names of `datasets`")
    if path.suffix == ".txt" and column is not None:
        raise BadInput(f"prompts {path}: a text file has no column ({column}); leave it out")
    found = {".jsonl": lambda: _jsonl(path, column), ".txt": lambda: _lines(path), ".csv": lambda: _csv(path, column)}
    return _valid_text(found[path.suffix](), path)


def _valid_text(prompts: Iterator[str], path: Path) -> Iterator[str]:
    count = 0
    try:
        for prompt in prompts:
            prompt.encode()  # JSON can spell half a surrogate pair, which no tokenizer takes
            yield prompt
            count += 1
    except (UnicodeError, csv.Error) as error:
        raise BadInput(f"prompts {path}, after {count} good ones: {error}; save it as UTF-8 text") from error


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as stream:
        yield from (line.rstrip("\n") for line in stream if line.strip())


def _jsonl(path: Path, column: str | None) -> Iterator[str]:
    with path.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                found = json.loads(line)
            except ValueError as error:
                raise BadInput(f"prompts {path}, line {number}: not JSON ({error}); mend or remove it") from error
            if isinstance(found, str) and column is None:
                yield found
            elif isinstance(found, dict):
                yield _field(found, column, f"{path}, line {number}")
            else:
                raise BadInput(f"prompts {path}, line {number}: want a string or an object, found {line.strip()[:60]}")


def _csv(path: Path, column: str | None) -> Iterator[str]:
    with path.open(encoding="utf-8", newline="") as stream:
        rows = csv.DictReader(stream)
        for row in rows:
            yield _field(row, column, f"{path}, line {rows.line_num}")


def _dataset(name: str, split: str, column: str | None) -> Iterator[str]:
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
    return (_field(row, column, f"{name}, row {index}") for index, row in enumerate(rows))


def _field(row: Mapping[str, object], column: str | None, where: str) -> str:
    usual = [name for name in _USUAL_COLUMNS if name in row] or (list(row) if len(row) == 1 else [])
    wanted = column if column is not None else (usual[0] if usual else None)
    has = ", ".join(map(str, row))
    if wanted is None:
        raise BadInput(f"prompts {where}: which column? It has {has}; name one as SOURCE:column")
    if wanted not in row:
        raise BadInput(f"prompts {where}: no column {wanted!r}; it has {has}")
    value = row[wanted]
    if not isinstance(value, str):
        raise BadInput(f"prompts {where}: column {wanted!r} is {type(value).__name__}, not text")
    return value


class PairWriter:
    """Appends prompt-completion pairs to a JSONL file, one object a line, in order; a killed run goes on where it was.

    Each line is `{index, fingerprint, prompt, input_ids, tokens, text}`, flushed to the system when `append` returns. A
    last line without its end is dropped on opening. `fingerprint` says what made the pairs (model, engine, dtype,
    source): a file of another one raises BadInput, as does a file that is no such list of pairs.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        """Open or create `path` and find out how many pairs it holds."""
        self._path, self._fingerprint = path, fingerprint
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
            raise BadInput(f"{self._path}, line {index + 1}: not a pair ({error}); name another output file") from error
        if made_by != self._fingerprint:
            raise BadInput(
                f"{self._path}: holds pairs of {made_by}, this run is {self._fingerprint}; name another output file"
            )
        if found != index:
            raise BadInput(f"{self._path}, line {index + 1}: pair {found} is out of order; name another output file")
