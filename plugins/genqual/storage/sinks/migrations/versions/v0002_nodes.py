"""Host and commit as columns, read from the bodies, and the indexes that find the newest run of a configuration."""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_CHUNK = 500


def upgrade() -> None:
    """Add the columns, fill them, index them."""
    for name in ("host", "commit"):
        op.add_column("records", sa.Column(name, sa.Text, nullable=True))
    _fill(op.get_bind())
    op.drop_index("ix_records_key", "records")
    op.drop_index("ix_records_class_id", "records")
    for name in ("host", "commit"):
        op.create_index(f"ix_records_{name}", "records", [name])
    op.create_index("ix_records_key_created_id", "records", ["key", "created", "id"])
    op.create_index("ix_records_class_id_key_created_id", "records", ["class_id", "key", "created", "id"])


def _fill(connection: sa.Connection) -> None:
    names = ("id", "body", "host", "commit")
    records = sa.table("records", *(sa.column(name, sa.Text()) for name in names))
    # A name of the statement's own: "id" already names the column that is set or compared.
    change = (
        sa.update(records)
        .where(records.c.id == sa.bindparam("of"))
        .values(host=sa.bindparam("its_host"), commit=sa.bindparam("its_commit"))
    )
    after = ""
    while True:
        page = sa.select(records.c.id, records.c.body).where(records.c.id > after).order_by(records.c.id).limit(_CHUNK)
        rows = connection.execute(page).all()
        if not rows:
            return
        after = rows[-1].id
        told = ((row.id, json.loads(row.body)) for row in rows)
        values = [
            {"of": identifier, "its_host": body["system"].get("host"), "its_commit": body["software"].get("commit")}
            for identifier, body in told
        ]
        connection.execute(change, values)


def downgrade() -> None:
    """An older genqual reads a newer table: its columns are all there."""
    raise NotImplementedError("genqual has no way back; an older one reads this table as it is")
