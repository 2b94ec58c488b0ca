"""Checkpoints whose weights are stored quantised: one file a format, each turns stored tensors into float32. NumPy."""
