"""Runs of the gate's own command, over many occasions: the record, its baselines, and what other rules say of them."""
