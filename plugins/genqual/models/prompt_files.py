"""Prompts out of a file: which types there are, how each is read, and what is wrong by file and line.

Pure: the standard library; pyarrow only when a Parquet file is named.
"""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, TextIO, cast

from genqual.errors import BadInput
from genqual.models.chat import Prompt, Render, messages_in

FILES: Final = (".jsonl", ".txt", ".csv", ".tsv", ".json", ".parquet")
_ALIASES: Final = {".ndjson": ".jsonl"}
_PACKED: Final[dict[str, Callable[[Path], Any]]] = {".gz": gzip.GzipFile, ".bz2": bz2.BZ2File, ".xz": lzma.LZMAFile}
_MARK: Final = "\ufeff"  # Windows' editors and Excel put it before a text, and it is no character of the prompt
_WIDE: Final = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}  # what Excel calls Unicode text
_USUAL_COLUMNS: Final = ("prompt", "text", "content", "messages", "conversations")
_SEPARATORS: Final = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}
_LOOKED_AT: Final = 20  # rows that settle which separator it is
_LONGEST_CELL: Final = 2**31 - 1  # the csv module's own limit, 131,072 characters, is less than a long document


def kind_of(path: Path) -> str | None:
    """The type of a file by the end of its name, `.jsonl` of PROMPTS.JSONL.gz too; None where it is none of ours."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _PACKED:
        suffixes.pop()
    kind = _ALIASES.get(suffixes[-1], suffixes[-1]) if suffixes else ""
    return kind if kind in FILES else None


def split(source: str) -> tuple[Path, str | None]:
    """The file of `FILE:column` and its column, if one is named; a dotted column is a path into nested fields."""
    name, _, column = source.rpartition(":")
    whole = Path(source).expanduser()
    if not name or not column or whole.exists():
        return whole, None
    file = Path(name).expanduser()
    return (file, column) if kind_of(file) is not None or file.is_file() else (whole, None)


def prompts_of(path: Path, column: str | None, render: Render | None) -> Iterator[Prompt]:
    """The prompts of an existing file, in its order; `render` turns a conversation into one.

    Raises BadInput at once on a type that is not known, and naming the line when one is bad.
    """
    kind = kind_of(path)
    if kind is None:
        raise BadInput(
            f"prompts {path}: a file of type {''.join(path.suffixes[-2:]) or 'unknown'}, which genqual does not read; "
            f"known are {', '.join(FILES)}, also packed ({', '.join(_PACKED)}): convert it, or rename it to what it is"
        )
    if kind == ".txt" and column is not None:
        raise BadInput(f"prompts {path}: a text file has no column ({column}); leave it out")
    if kind == ".parquet" and find_spec("pyarrow") is None:
        raise BadInput(f"prompts {path}: a Parquet file is read by the package pyarrow: pip install pyarrow")
    rows = {".jsonl": _jsonl, ".json": _json, ".txt": _lines, ".csv": _csv, ".tsv": _tsv, ".parquet": _parquet}[kind]
    return _told(lambda: _prompts(rows(path), column, render), path)


Rows = Iterator[tuple[str, object]]
"""What stands in a file, each with where it does: `x.jsonl, line 3`."""


def _prompts(rows: Rows, column: str | None, render: Render | None) -> Iterator[Prompt]:
    for where, row in rows:
        if isinstance(row, str) and column is None:
            yield prompt_of(row, where, where, render)
        elif isinstance(row, dict):
            yield field(row, column, where, render)
        elif column is None and messages_in(row, where) is not None:
            yield prompt_of(row, where, where, render)
        else:
            shown = json.dumps(row, ensure_ascii=False, default=str)[:60]
            raise BadInput(f"prompts {where}: want a string or an object, found {shown}")


def _told(prompts: Callable[[], Iterator[Prompt]], path: Path) -> Iterator[Prompt]:
    """The same, with what only reading tells: where the file is no text, no table, or torn."""
    count = 0
    try:
        for prompt in prompts():
            prompt.encode()  # JSON can spell half a surrogate pair, which no tokenizer takes
            yield prompt
            count += 1
    except UnicodeError as error:
        raise BadInput(f"prompts {path}, after {count} good ones: {error}; save it as UTF-8 text") from error
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise BadInput(f"prompts {path}, after {count} good ones: cannot be read ({error}); copy it again") from error


def field(row: Mapping[str, object], column: str | None, where: str, render: Render | None) -> Prompt:
    """The prompt of one row: its `column`, or the usual one. Raises BadInput that says what the row has."""
    if None in row:
        raise BadInput(
            f"prompts {where}: more fields than the header has names; quote a text that holds the separator, or name it"
            " .txt if each line is a prompt"
        )
    usual = [name for name in _USUAL_COLUMNS if name in row] or (list(row) if len(row) == 1 else [])
    wanted = column if column is not None else (usual[0] if usual else None)
    has = ", ".join(map(str, row))
    if wanted is None:
        raise BadInput(f"prompts {where}: which column? It has {has}; name one as SOURCE:column")
    return prompt_of(_value(row, wanted, where, has), f"{where}: column {wanted!r}", where, render)


def _value(row: Mapping[str, object], wanted: str, where: str, has: str) -> object:
    """The field called `wanted`, or the one that its dotted path leads to: `conversations.0.value`."""
    if wanted in row:
        return row[wanted]
    found: object = row
    for done, step in enumerate(steps := wanted.split(".")):
        inner = found
        if isinstance(inner, Mapping) and step in inner:
            found = inner[step]
        elif isinstance(inner, list) and step.lstrip("-").isdigit() and -len(inner) <= int(step) < len(inner):
            found = inner[int(step)]
        else:
            there = f"{len(inner)} entries" if isinstance(inner, list) else f"{type(inner).__name__}"
            there = ", ".join(map(str, inner)) if isinstance(inner, Mapping) else there
            at = f"; {'.'.join(steps[:done])} has {there}" if done else f"; it has {has}"
            raise BadInput(f"prompts {where}: no column {wanted!r}{at}")
    return found


def prompt_of(value: object, what: str, where: str, render: Render | None) -> Prompt:
    """`value` as a prompt; `what` names it in messages."""
    if isinstance(value, str):
        return Prompt(value, where)
    messages = messages_in(value, where)
    if messages is None:
        raise BadInput(f"prompts {what} is {type(value).__name__}, not text")
    if render is None:
        raise BadInput(f"prompts {what} is a conversation, which the chat template of a model makes a prompt of")
    return Prompt(render(messages), where, rendered=True)


def _text(path: Path, newline: str | None = None) -> TextIO:
    with _bytes(path) as stream:
        begin = stream.read(4)
    wide = begin not in (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE) and _WIDE.get(begin[:2])
    return io.TextIOWrapper(_bytes(path), encoding=wide or "utf-8-sig", newline=newline)


def _bytes(path: Path) -> Any:
    packed = _PACKED.get(path.suffix.lower())
    return packed(path) if packed is not None else path.open("rb")


def _lines(path: Path) -> Rows:
    with _text(path) as stream:
        for number, line in enumerate(stream, 1):
            text = line.removeprefix(_MARK)  # of a file that was put behind another
            if "\0" in text:
                raise BadInput(
                    f"prompts {path}, line {number}: holds NUL, as UTF-16 without its mark does; save it as UTF-8 text"
                )
            if text.strip():
                yield f"{path}, line {number}", text.rstrip("\n")


def _jsonl(path: Path) -> Rows:
    with _text(path) as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                yield f"{path}, line {number}", json.loads(line.removeprefix(_MARK))
            except ValueError as error:
                raise BadInput(f"prompts {path}, line {number}: not JSON ({error}); mend or remove it") from error


def _json(path: Path) -> Rows:
    with _text(path) as stream:
        text = stream.read()
    try:
        found = json.loads(text)
    except ValueError as error:
        lines = "; it looks like JSON Lines: name it .jsonl" if "Extra data" in str(error) else "; mend it"
        raise BadInput(f"prompts {path}: not one JSON value ({error}){lines}") from error
    if isinstance(found, dict):
        lists = [value for value in found.values() if isinstance(value, list)]
        usual = any(name in found for name in _USUAL_COLUMNS)
        found = lists[0] if len(lists) == 1 and not usual else [found]
    if not isinstance(found, list):
        raise BadInput(f"prompts {path}: want a list of prompts, found a {type(found).__name__}")
    if messages_in(found, str(path)) is not None:
        found = [found]
    for number, row in enumerate(found, 1):
        yield f"{path}, entry {number}", row


def _csv(path: Path) -> Rows:
    return _table(path, _separator(path))


def _tsv(path: Path) -> Rows:
    return _table(path, "\t")


def _table(path: Path, separator: str) -> Rows:
    csv.field_size_limit(_LONGEST_CELL)
    with _text(path, newline="") as stream:
        noted = _note(stream.readline()) is not None
        if not noted:
            stream.seek(0)
        rows = csv.DictReader(stream, delimiter=separator, strict=True)
        try:
            _check_header(path, rows.fieldnames or ())
            for row in rows:
                yield f"{path}, line {rows.line_num + noted}", cast("dict[str, object]", row)
        except csv.Error as error:  # read on, a field would end where it does not, and rows be lost
            where = f"{path}, line {rows.reader.line_num + noted}"
            raise BadInput(
                f"prompts {where}: {error}; put a text that holds quotes in quotes as a whole and write each of its "
                "own twice, or name the file .txt if each line is a prompt"
            ) from error


def _check_header(path: Path, names: Sequence[str]) -> None:
    """Raises BadInput on a header that is one name with what may separate fields in it, or that has a name twice."""
    if len(names) == 1 and (odd := re.search(r"[^\w .()\[\]/?!'-]", names[0])):
        raise BadInput(
            f"prompts {path}: its header is the one column {names[0][:60]!r}; if {odd[0]!r} separates fields, write "
            f"{', '.join(_SEPARATORS.values())} instead (in a .tsv file a tab); if each line is a prompt, name it .txt"
        )
    twice = sorted({name for name in names if name and list(names).count(name) > 1})
    if twice:
        raise BadInput(f"prompts {path}: two columns are called {twice[0]!r}; rename one of them")


def _note(line: str) -> str | None:
    """The separator that Excel's first line `sep=;` names."""
    match = re.fullmatch(r"sep=(.)\r?\n?", line, flags=re.IGNORECASE)
    return match[1] if match else None


def _separator(path: Path) -> str:
    """What separates the fields of a .csv file, by its header; Excel writes what its language takes for a comma.

    Raises BadInput where several would do.
    """
    csv.field_size_limit(_LONGEST_CELL)
    with _text(path, newline="") as stream:
        noted = _note(stream.readline())
    if noted is not None:
        return noted
    counts = {one: widths for one in _SEPARATORS if (widths := _widths(path, one)) and widths[0] > 1}
    if len(counts) > 1:
        counts = {one: widths for one, widths in counts.items() if len(set(widths)) == 1}
    if len(counts) > 1:
        found = " or ".join(_SEPARATORS[one] for one in counts)
        raise BadInput(f"prompts {path}: is {found} what separates its fields? Quote the fields, or give a .tsv file")
    return next(iter(counts), ",")


def _widths(path: Path, separator: str) -> list[int]:
    """How many fields each of the first rows has."""
    found: list[int] = []
    with _text(path, newline="") as stream:
        try:
            for row in csv.reader(stream, delimiter=separator, strict=True):
                if row:
                    found.append(len(row))
                if len(found) == _LOOKED_AT:
                    break
        except csv.Error:
            return found[:1]  # by another separator it may be a table; reading tells what is wrong
    return found


def _parquet(path: Path) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with _bytes(path) as stream:
            number = 0
            for batch in pq.ParquetFile(stream).iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", row
    except pa.ArrowException as error:
        raise BadInput(f"prompts {path}: not a whole Parquet file ({error}); copy it again") from error
