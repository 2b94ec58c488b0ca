"""What is run: models built from integers, real checkpoints, prompt sets."""
