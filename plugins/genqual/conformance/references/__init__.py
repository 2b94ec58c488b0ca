"""What the oracle said, on disk."""
