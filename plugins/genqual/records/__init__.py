"""The schema of a result and its canonical bytes. Pure."""
