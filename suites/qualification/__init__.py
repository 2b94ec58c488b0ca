"""Does it stay so: soak, repeatability, faults."""
