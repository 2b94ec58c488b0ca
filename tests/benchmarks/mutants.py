"""Break the judges on purpose, line by line, and count which breakage no test sees: a mutation run with cosmic-ray.

    tox -e mutants            # 30 minutes at most, on a copy of the tree; the checkout is never written to

Every mutant of the judging modules is judged by this room's own quick tests. `--suite` mutates suites/conformance
instead, where a mutant is judged by faults in a live engine (tests/faults/test_every_property.py), minutes each: give
it a night. Mutants are tried in a fixed shuffled order, so that a budget that ends early is a fair sample. Prints the
score and the survivors.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
JUDGES: Final = (
    *("judge", "judge_free", "judge_own", "judge_parts", "judge_text", "judgement"),
    *("envelope", "other_rules", "bisect", "scores"),
)
QUICK: Final = (
    *("test_judge", "test_judge_own", "test_judge_text", "test_free_run", "test_envelope", "test_same"),
    *("test_bisect", "test_reference"),
)


def main(arguments: list[str]) -> int:
    """Make the copy, run until the budget is spent, report; exits with 0 whatever the score."""
    parser = argparse.ArgumentParser("python -m tests.benchmarks.mutants", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--suite", action="store_true", help="mutate suites/conformance, judged by injected faults")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="genqual-mutants-") as folder:
        tree = Path(folder) / "tree"
        ignored = shutil.ignore_patterns(".git", ".tox", ".venv", ".genqual", "__pycache__", ".*_cache", ".hypothesis")
        shutil.copytree(ROOT, tree, ignore=ignored)
        session = tree / "mutants.sqlite"
        config = tree / "mutants.toml"
        config.write_text(_config(suite=options.suite), encoding="utf-8")
        where = {**os.environ, "PYTHONPATH": str(tree / "plugins"), "OMP_NUM_THREADS": "1"}
        for step in (["init", str(config), str(session)], ["baseline", str(config)]):
            _cosmic(step, tree, where)
        _shuffle(session)
        deadline = time.monotonic() + 60 * options.minutes
        try:
            _cosmic(["exec", str(config), str(session)], tree, where, limit=max(1.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            print(f"the budget of {options.minutes:g} minutes is spent", flush=True)
        report(session)
    return 0


def report(session: Path) -> None:
    """Score and survivors of what was tried."""
    with sqlite3.connect(session) as database:
        rows = database.execute(
            "select m.module_path, m.operator_name, m.start_pos_row, r.test_outcome from mutation_specs m "
            "left join work_results r on r.job_id = m.job_id"
        ).fetchall()
    tried = [row for row in rows if row[3]]
    survivors = [row for row in tried if str(row[3]).upper().endswith("SURVIVED")]
    killed = len(tried) - len(survivors)
    share = 100 * killed / len(tried) if tried else 0.0
    print(f"{len(rows)} mutants, {len(tried)} tried, {killed} killed ({share:.1f} %), {len(survivors)} survive:")
    for module, operator, line, _ in sorted(survivors, key=str):
        print(f"  {module}:{line} {operator}")


def _config(*, suite: bool) -> str:
    if suite:
        modules = ["suites/conformance"]
        tests = f"{sys.executable} -m pytest -x -q -p no:cacheprovider tests/faults/test_every_property.py"
    else:
        modules = [f"plugins/genqual/conformance/{name}.py" for name in JUDGES]
        files = " ".join(f"tests/conformance/{name}.py" for name in QUICK)
        tests = f"{sys.executable} -m pytest -x -q -p no:cacheprovider -p no:randomly {files}"
    listed = ", ".join(f'"{name}"' for name in modules)
    return (
        f"[cosmic-ray]\nmodule-path = [{listed}]\ntimeout = {900 if suite else 60}.0\nexcluded-modules = []\n"
        f'test-command = "{tests}"\n[cosmic-ray.distributor]\nname = "local"\n'
    )


def _cosmic(step: list[str], tree: Path, where: dict[str, str], limit: float | None = None) -> None:
    subprocess.run([sys.executable, "-m", "cosmic_ray.cli", *step], cwd=tree, env=where, check=True, timeout=limit)


def _shuffle(session: Path) -> None:
    """Work items are taken in the order of the table: make it a fixed random one."""
    with sqlite3.connect(session) as database:
        jobs = [job for (job,) in database.execute("select job_id from work_items order by job_id")]
        random.Random(4).shuffle(jobs)
        database.execute("delete from work_items")
        database.executemany("insert into work_items (job_id) values (?)", [(job,) for job in jobs])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
