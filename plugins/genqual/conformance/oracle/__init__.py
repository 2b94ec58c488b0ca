"""What a model's logits are, by our own implementation in float64 NumPy: shared parts, one file an architecture."""
