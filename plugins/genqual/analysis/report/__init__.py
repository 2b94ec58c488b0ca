"""One self-contained page from records: rows, a decision, charts, tables. No network; charts need altair."""

from typing import Final

FORMS: Final = (".html", ".csv", ".json")
"""What a report can be written as, by the file's name."""
