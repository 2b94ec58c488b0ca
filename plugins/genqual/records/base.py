"""What every part of a record is: frozen, closed, finite. Pure: no file, no network, no clock."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    model_serializer,
)

from genqual.records.canonical import finite, plain


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


class RecordPart(BaseModel):
    """Base of every part: unknown fields are refused, and nothing changes once it is built.

    A null that is only a field's default is not written: an optional field that a later minor version adds leaves the
    bytes, and so the ids, of records that do not use it as they are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with some fields changed, validated again (pydantic's own would take any value)."""
        fields = {field.alias or name: getattr(self, name) for name, field in type(self).model_fields.items()}
        return type(self).model_validate({**fields, **(update or {})})

    @model_serializer(mode="wrap")
    def _lean(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = type(self).model_fields
        names = {field.alias or name: field for name, field in fields.items()}
        return {name: value for name, value in write(self).items() if value is not None or names[name].is_required()}
