"""Programs that show what genqual claims about itself, with real runs: `python -m tests.benchmarks.NAME --help`."""
