"""Tests of what is kept: no device, no torch, no network."""
