"""What is checked; reads like a specification."""
