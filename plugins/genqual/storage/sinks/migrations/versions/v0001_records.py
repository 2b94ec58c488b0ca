"""The table of records as the first genqual made it, in SQLite files, without a version of its own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_TEXTS = ("created", "run", "kind", "device", "class_id", "engine", "model", "dtype", "status", "provenance", "body")


def upgrade() -> None:
    """Make it where it is not."""
    op.create_table(
        "records",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("ranks", sa.Integer, nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in _TEXTS),
        if_not_exists=True,
    )
    for name in ("run", "key", "class_id"):
        op.create_index(f"ix_records_{name}", "records", [name], if_not_exists=True)


def downgrade() -> None:
    """Records are never dropped by a command of ours."""
    raise NotImplementedError("genqual drops no records; drop the table by hand")
