"""TOML files that people write: read into a pydantic model, or one paragraph that says what is wrong and what may be.

The paragraph names the file, the key, its value and what is allowed there, and a key that is nearly right.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, Strict, ValidationError

from genqual.errors import BadInput

_MOST_FLAWS: Final = 5
_SAID: Final = {
    "tuple_type": "must be an array, [...]",
    "string_type": "must be a text in quotes",
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "too_short": "must have an element",
    "date_type": "must be a date such as 2027-03-01, without quotes",
}
"""What pydantic says in Python's words, in TOML's."""

Item = TypeVar("Item")
Listed = Annotated[tuple[Item, ...], Strict(False)]  # a TOML array becomes a tuple; its items stay strict
Positive = Annotated[int, Field(ge=1)]
Texts = Listed[str]
Counts = Annotated[Listed[Positive], Field(min_length=1)]


class TomlTable(BaseModel):
    """Base of every table of such a file: unknown keys are refused, and no value is made another type."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


Kind = TypeVar("Kind", bound=BaseModel)


def read(path: Path, kind: type[Kind], *, where: str = "", what: str = "TOML") -> Kind:
    """The file at `path` as a `kind`. `where` begins a message (the path), `what` is what the file ought to be.

    Raises BadInput where it cannot be read, is not TOML or does not fit.
    """
    where = where or str(path)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{where}: cannot be read ({error.strerror}); name a file that is there") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{where}: not {what}: {error}; correct it there") from None
    return checked(kind, table, where)


def checked(kind: type[Kind], table: Mapping[str, Any], where: str) -> Kind:
    """`table` as a `kind`. Raises BadInput that begins with `where` and tells the first flaws."""
    try:
        return kind.model_validate(table)
    except ValidationError as error:
        flaws = error.errors(include_url=False)
    told = [_told(kind, flaw) for flaw in flaws[:_MOST_FLAWS]]
    more = [f"and {len(flaws) - _MOST_FLAWS} more"] if len(flaws) > _MOST_FLAWS else []
    raise BadInput(f"{where}: {'; '.join([*told, *more])}")


def _told(kind: type[BaseModel], flaw: Any) -> str:
    place, value = tuple(flaw["loc"]), flaw["input"]
    if flaw["type"] == "extra_forbidden":
        return f"{_section(place[:-1])}unknown key {place[-1]!r}{_instead(str(place[-1]), _keys(kind, place[:-1]))}"
    if flaw["type"] == "missing":
        wanted = [key for key, required in _keys(kind, place[:-1]).items() if required]
        return f"{_section(place[:-1])}{place[-1]!r} is missing; give {', '.join(wanted)}"
    said = _SAID.get(flaw["type"], flaw["msg"].replace("Input should", "must"))
    if flaw["type"] == "value_error":  # of a check of ours
        said = str(flaw["ctx"]["error"])
    if not place or isinstance(value, Mapping):  # of a whole table
        return f"{_section(place)}{said}"
    named = max(at for at, part in enumerate(place) if isinstance(part, str))
    element = "".join(f", element {int(part) + 1}" for part in place[named + 1 :])
    return f"{_section(place[:named])}{place[named]}{element} = {value!r}: {said}"


def _section(place: tuple[str | int, ...]) -> str:
    """`[performance.cases 2] `; numbers count from 1, as a reader counts tables."""
    text = "".join(f" {part + 1}" if isinstance(part, int) else f".{part}" for part in place)
    return f"[{text.removeprefix('.')}] " if text else ""


def _instead(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"{f', did you mean {near[0]}?' if near else ''} (known are {', '.join(known)})"


def _keys(kind: Any, place: Iterable[str | int]) -> dict[str, bool]:
    """The keys of the table at `place` as the file spells them, each with whether it is required."""
    for part in place:
        inside = [one for one in _models(kind) if isinstance(part, int) or part in _named(one)]
        kind = _named(inside[0])[part].annotation if inside and isinstance(part, str) else kind
    return {key: field.is_required() for one in _models(kind)[:1] for key, field in _named(one).items()}


def _named(model: type[BaseModel]) -> dict[str, Any]:
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The models in an annotation such as `tuple[Row, ...] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]
