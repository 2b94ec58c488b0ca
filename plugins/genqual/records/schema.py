"""The published JSON Schema of a record as it is kept, its id among the fields. Pure."""

from __future__ import annotations

from typing import Any, Final

from genqual.records.record import SCHEMA, Record

FILE: Final = f"record-{SCHEMA.removeprefix('genqual/')}.json"
"""Its name below `baselines/schema/`, where the published one is."""


def json_schema() -> dict[str, Any]:
    """JSON Schema, draft 2020-12. What it cannot say: the id is the SHA-256 of the other fields' RFC 8785 bytes."""
    made = Record.model_json_schema(mode="validation")
    identifier = {
        "description": "SHA-256 of the RFC 8785 bytes of this object without `id`, in lower-case hexadecimal.",
        "pattern": "^[0-9a-f]{64}$",
        "title": "Id",
        "type": "string",
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": f"{SCHEMA}, written by `genqual schema`. A later minor version only adds optional fields.",
        **made,
        "properties": {"id": identifier, **made["properties"]},
        "required": ["id", "schema", "created", *made["required"]],
    }
