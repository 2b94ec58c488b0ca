"""Negative controls: the real suite, run on engines that are broken on purpose, must fail."""
