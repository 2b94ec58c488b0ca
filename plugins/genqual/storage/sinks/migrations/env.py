"""What Alembic runs: the migrations, on the one connection that `sinks.upgrade` opened. Run by Alembic only."""

from __future__ import annotations

from alembic import context

from genqual.storage.sinks.table import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
with context.begin_transaction():
    context.run_migrations()
