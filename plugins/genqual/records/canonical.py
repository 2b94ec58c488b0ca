"""Plain data: what canonical JSON can hold, and how it is read back. Pure: no file, no clock, no record."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, Final, NoReturn

from genqual.cases import Json

LARGEST: Final = 2**53 - 1  # beyond it a JSON number is no longer an exact integer for every reader


def plain(value: Any, where: str = "value") -> Json:
    """A deep copy of `value` as plain data; NumPy scalars become numbers, tuples become lists.

    Raises ValueError that names the place of a NaN, an infinity, an integer beyond 2**53 - 1 or any other type.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Integral):
        return _whole(int(value), where)
    if isinstance(value, Real):
        return finite(value, where)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ValueError(f"{where} has the key {key!r}: JSON keys are strings")
        return {str(key): plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    raise ValueError(f"{where} is a {type(value).__name__}: a record holds plain JSON data only, convert it first")


def finite(value: Any, where: str = "value") -> float:
    """`value` as a float. Raises ValueError when it is no number or is NaN or infinite."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError(f"{where} is {value!r}, which is not a number")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(
            f"{where} is {number}: JSON has no such number; store null instead and say why in the outcome"
            " (status, message)"
        )
    return number


def parse(data: bytes) -> Json:
    """Strict JSON: UTF-8, no NaN, no key twice. Raises ValueError.

    An integer beyond 2**53 - 1 is read as a float: RFC 8785 writes the float 1e17 as 100000000000000000.
    """
    try:
        text = data.decode("utf-8")
        value: Json = json.loads(text, parse_constant=_no_constant, parse_int=_number, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply to be one of ours") from None
    return value


def _whole(value: int, where: str) -> int:
    if abs(value) > LARGEST:
        raise ValueError(f"{where} is {value}: integers beyond 2**53 - 1 are not exact in JSON; store a float")
    return value


def _number(text: str) -> int | float:
    value = int(text)
    return value if abs(value) <= LARGEST else float(text)


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(n for n in names if names.count(n) > 1)!r} stands twice in one object")
    return result
