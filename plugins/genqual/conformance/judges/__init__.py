"""Judges of outputs, one file for each kind of evidence. NumPy only."""
