"""Settings of the suite's own tests; no fixture, because every package has its own."""

from __future__ import annotations

from hypothesis import settings

# Speed is judged in benchmarks, never in a test: a busy host must not fail a property.
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")
