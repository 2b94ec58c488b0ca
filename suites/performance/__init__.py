"""Is it fast enough: one item a metric."""
