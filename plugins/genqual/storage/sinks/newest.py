"""Which records are of the newest run of their configuration, found by walking an index. Builds statements only."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from genqual.storage.sinks.base import Query
from genqual.storage.sinks.table import RECORDS


def newest_runs(statement: sa.Select[Any], query: Query) -> sa.Select[Any]:
    """`statement` narrowed to the run that each content key was last recorded in, among what `query` matches.

    A million records are a few thousand configurations, measured again and again: the keys are found by stepping from
    one to the next in the index (a loose index scan), so the cost follows the configurations and not the records.
    """
    column = RECORDS.c.class_id
    fixed = sa.true() if query.class_id is None else column == query.class_id
    first = sa.select(sa.func.min(RECORDS.c.key).label("key")).where(fixed)
    keys = first.cte("keys", recursive=True)
    following = sa.select(sa.func.min(RECORDS.c.key)).where(fixed, RECORDS.c.key > keys.c.key).scalar_subquery()
    keys = keys.union_all(sa.select(following).where(keys.c.key.is_not(None)))
    run = (
        sa.select(RECORDS.c.run)
        .where(fixed, RECORDS.c.key == keys.c.key, *query_conditions(query))
        .order_by(RECORDS.c.created.desc(), RECORDS.c.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    pairs = sa.select(keys.c.key, run.label("run")).where(keys.c.key.is_not(None)).subquery("newest")
    return statement.join(pairs, sa.and_(RECORDS.c.key == pairs.c.key, RECORDS.c.run == pairs.c.run))


def query_conditions(query: Query) -> list[sa.ColumnElement[bool]]:
    """`query` as conditions on the table."""
    return [
        sa.func.substr(RECORDS.c[name], 1, len(value)) == value if name in query.PREFIXES else RECORDS.c[name] == value
        for name, value in query.conditions.items()
    ]
