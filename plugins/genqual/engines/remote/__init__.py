"""Engines that are other programs: servers and commands."""
