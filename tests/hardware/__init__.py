"""What is run on a card for the first time, and the proof that it would run."""
