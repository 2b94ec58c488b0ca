"""The `records` table: an index over the bytes of records, and what version of it this genqual writes. No connection.

A change here is a migration in `migrations/versions/`, and HEAD follows.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

HEAD: Final = "0002"

METADATA: Final = sa.MetaData()

RECORDS: Final = sa.Table(
    "records",
    METADATA,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("created", sa.Text, nullable=False),
    sa.Column("run", sa.Text, nullable=False, index=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("key", sa.String(64), nullable=False),
    sa.Column("device", sa.Text, nullable=False),
    sa.Column("class_id", sa.Text, nullable=False),
    sa.Column("engine", sa.Text, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("dtype", sa.Text, nullable=False),
    sa.Column("ranks", sa.Integer, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("provenance", sa.Text, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("host", sa.Text, nullable=True, index=True),
    sa.Column("commit", sa.Text, nullable=True, index=True),
    # The newest run of each configuration is found by walking one of these, whatever the number of records.
    sa.Index("ix_records_key_created_id", "key", "created", "id"),
    sa.Index("ix_records_class_id_key_created_id", "class_id", "key", "created", "id"),
)

VERSION: Final = sa.Table("alembic_version", METADATA, sa.Column("version_num", sa.String(32), primary_key=True))
"""Alembic's own table. SQLite files are made at HEAD on first use, and say so here."""
