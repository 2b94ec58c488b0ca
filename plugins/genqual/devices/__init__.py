"""What the hardware is: one file a device, enumerated without initialising it."""
