"""Text from records made safe to show: no control character moves a cursor, no markup is obeyed. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

# C0 and C1 controls, and the characters that reorder or hide what stands around them.
_UNSAFE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")
_MARKDOWN: Final = re.compile(r"([\\`*_\[\]|~])")


def clean(text: str) -> str:
    """`text` on one line, without control characters."""
    return " ".join(_UNSAFE.sub(" ", text).split())


def markdown(text: str) -> str:
    """`text` as one Markdown table cell that shows it as it is: no link, no HTML, no further column."""
    plain = clean(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKDOWN.sub(r"\\\1", plain)


def inert(value: object) -> object:
    """A CSV cell that no spreadsheet executes: text that could be a formula gets an apostrophe before it."""
    if not isinstance(value, str):
        return value
    text = clean(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "|", "%")) else text


def spread(lines: Sequence[str], rows: int) -> list[str]:
    """`lines` laid beside `rows` table rows, one a row; what is left over goes below in the last one."""
    if rows < 1:
        return []
    head, tail = list(lines[: rows - 1]), lines[rows - 1 :]
    return [*head, *["\n".join(tail)], *[""] * (rows - 1 - len(head))]
