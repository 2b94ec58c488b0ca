"""The detection matrix: which property finds which fault. Brings rooms together, at the plugin's level."""
