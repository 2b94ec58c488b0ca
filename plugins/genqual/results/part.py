"""What every part of a record is: frozen, closed, finite. Pure: no file, no network, no clock."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from genqual.results.canonical import finite, plain


def _facts(value: Any) -> Any:
    return plain(value, "facts")


def _number(value: Any) -> float:
    return finite(value, "the value")


def _count(value: Any) -> Any:
    return plain(value, "the count")  # NumPy integers become Python's


Facts = Annotated[dict[str, Any], BeforeValidator(_facts)]
Number = Annotated[float, BeforeValidator(_number)]
Count = Annotated[int, Field(strict=True, ge=1), BeforeValidator(_count)]
Tally = Annotated[int, Field(strict=True, ge=0), BeforeValidator(_count)]
# No control characters in what tables print on one line: a name cannot move the cursor of a terminal.
Name = Annotated[str, StringConstraints(min_length=1, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$")]
Word = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Part(BaseModel):
    """Base of every part: unknown fields are refused, and nothing changes once it is built."""

    model_config = ConfigDict(frozen=True, extra="forbid")
