"""Is it right: one file a chapter."""
