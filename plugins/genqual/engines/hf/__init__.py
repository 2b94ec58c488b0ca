"""Engines on Hugging Face transformers and what they share. In ranks only."""
