"""Parts of `gate_over_time`: controls in the rank, launches of the pinned build, and the committed record."""
