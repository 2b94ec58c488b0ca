"""Alembic's migrations of the `records` table, run by `genqual db upgrade` and by nothing else."""
