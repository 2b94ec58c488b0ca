"""optimum-habana on Gaudi. In ranks only."""
