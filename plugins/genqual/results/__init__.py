"""What is kept: record, spool, sinks, compare, summary."""
