"""An array of jobs under a real Slurm, each sending its records to one PostgreSQL server."""

from __future__ import annotations

import re
import shlex
import sys

import psycopg
import pytest

from genqual.storage.sinks.table import HEAD
from genqual.storage.sinks.upgrade import upgrade
from tests.cluster.conftest import Start
from tests.here import CPU
from tests.results.postgres import Server

pytestmark = pytest.mark.heavy  # four runs of the suite

TASKS = 4


def test_an_array_of_jobs_writes_each_record_once(start: Start, postgres: Server) -> None:
    """From one folder, so that the tasks share their spool as they do on a cluster's file system."""
    url = postgres.database()
    assert upgrade(url) == (None, HEAD)
    slurm = start()
    words = ["-m", "pytest", "--pyargs", "genqual.suites", "-m", CPU, "--engine", "transformers", "--dtype", "fp32"]
    words += ["--model", "llama-tiny", "-k", "greedy", "--upload", url, "--require-upload", "-p", "no:cacheprovider"]
    job = slurm.submit(shlex.join([sys.executable, *words]), f"--array=1-{TASKS}", "--ntasks=1")
    slurm.wait_for_job(job, "COMPLETED", "FAILED", seconds=900)
    said = [(slurm.folder / "out" / f"{job}_{task}").read_text() for task in range(1, TASKS + 1)]
    assert {state for state, _ in slurm.job(job)} == {"COMPLETED"}, "\n".join(said)
    told = [re.search(r"(\d+) records of run (\w+) ", text) for text in said]
    expected = {one[2]: int(one[1]) for one in told if one}
    assert len(expected) == TASKS, "\n".join(said)
    with psycopg.connect(url) as connection:
        rows = connection.execute("select run, count(*), count(distinct id) from records group by run").fetchall()
    assert {str(run): (every, distinct) for run, every, distinct in rows} == {
        run: (count, count) for run, count in expected.items()
    }
