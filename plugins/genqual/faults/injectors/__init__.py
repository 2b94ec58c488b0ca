"""Faults put into live engines. In ranks only."""
