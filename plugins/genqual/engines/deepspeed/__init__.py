"""DeepSpeed's engines. In ranks only."""
