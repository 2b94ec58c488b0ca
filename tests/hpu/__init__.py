"""Gaudi without a Gaudi: the stand-in's rules, the vendor's contract, simulated runs."""
