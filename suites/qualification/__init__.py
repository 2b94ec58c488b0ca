"""Is the node fit, and does it stay so: one file a chapter."""
