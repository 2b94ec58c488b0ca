"""Frozen dataclasses to and from channel messages: arrays apart, the rest as JSON. No pickle, no torch."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from genqual.cases import Json
from genqual.ranks.protocol import Arrays, ChannelError

T = TypeVar("T")


def encode(value: object) -> tuple[dict[str, Json], dict[str, NDArray[Any]]]:
    """Split a dataclass into JSON fields and arrays.

    ndarray fields become arrays; a nested value with `as_json` becomes what that returns. Raises ChannelError on
    anything else than a dataclass instance; `channel.send` refuses what JSON cannot hold.
    """
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        raise ChannelError(f"{type(value).__name__}: only dataclasses cross the channel")
    fields: dict[str, Json] = {}
    arrays: dict[str, NDArray[Any]] = {}
    for slot in dataclasses.fields(value):
        part = getattr(value, slot.name)
        if isinstance(part, np.ndarray):
            arrays[slot.name] = part
        elif isinstance(part, np.generic):
            fields[slot.name] = cast(Json, part.item())
        else:
            fields[slot.name] = part.as_json() if hasattr(part, "as_json") else part
    return fields, arrays


def decode(cls: type[T], fields: Mapping[str, Json], arrays: Arrays | None = None) -> T:
    """Rebuild a dataclass; the inverse of `encode`.

    Raises ChannelError on unknown or missing fields. Lists become tuples where `cls` says tuple, mappings become
    values where it names a class with `from_json`.
    """
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {**fields, **(arrays or {})}
    for name, value in values.items():
        hint = hints.get(name)
        if isinstance(value, list) and typing.get_origin(hint) is tuple:
            values[name] = tuple(value)
        elif isinstance(value, dict) and hasattr(hint, "from_json"):
            values[name] = cast(Any, hint).from_json(value)
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise ChannelError(f"{cls.__name__}: {error}") from error
