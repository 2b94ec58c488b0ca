"""What the hardware itself counted in a window: read before, read after, judged by the difference."""
