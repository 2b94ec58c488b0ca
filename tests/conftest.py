"""Settings of the suite's own tests; no fixture, because every package has its own."""

from __future__ import annotations

import os

import threadpoolctl
from hypothesis import settings

# Runs that a test starts are no workers of the run that it is in: pytest-benchmark and the gate would stand down. Nor
# do their verdicts, failures on purpose among them, belong to the CI job that runs these tests.
for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
    os.environ.pop(name, None)

# Workers share the cores. OpenBLAS's threads spin while they wait for each other, which takes more than it gives.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # of what a test starts; here NumPy has been imported already
threadpoolctl.threadpool_limits(1, user_api="blas")

# Speed is judged in benchmarks, never in a test: a busy host must not fail a property.
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")
