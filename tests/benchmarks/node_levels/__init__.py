"""Which faults each level of `genqual node` finds."""
