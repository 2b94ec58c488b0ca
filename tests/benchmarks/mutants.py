"""Break the judges on purpose, line by line, and count which breakage no test sees: a mutation run with cosmic-ray.

    tox -e mutants                            # 30 minutes at most, on a copy of the tree
    tox -e mutants -- --only judge,judgement  # some modules

Each judging module has the quick tests that guard it, and its share of the time. `--suite` mutates suites/conformance
instead, where a mutant is judged by faults in a live engine (tests/faults/test_every_property.py), minutes each: give
it a night. Mutants are tried in a fixed shuffled order, so that a budget that ends early is a fair sample. What `|`
becomes is left out: nearly all of them are types of signatures. Prints the score and the survivors, as diffs.
"""

from __future__ import annotations

import argparse
import compileall
import os
import py_compile
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
CONFORMANCE: Final = "plugins/genqual/conformance"
GUARDS: Final = {  # module: the tests of it, those that notice most first
    "judge": "test_judge test_same test_envelope",
    "judgement": "test_judge test_envelope test_same",
    "envelope": "test_envelope",
    "judge_parts": "test_same test_judge",
    "judge_own": "test_judge_own",
    "judge_free": "test_free_run",
    "judge_text": "test_judge_text",
    "calibration": "test_leave_one_out",
    "bisect": "test_bisect",
    "other_rules": "test_judge_text",
    "scores": "test_reference",
}


def main(arguments: list[str]) -> int:
    """Make the copy, run until the budget is spent, report; exits with 0 whatever the score."""
    parser = argparse.ArgumentParser("python -m tests.benchmarks.mutants", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--only", help="some of: " + ", ".join(GUARDS))
    parser.add_argument("--suite", action="store_true", help="mutate suites/conformance, judged by injected faults")
    options = parser.parse_args(arguments)
    names = ["suite"] if options.suite else options.only.split(",") if options.only else list(GUARDS)
    with tempfile.TemporaryDirectory(prefix="genqual-mutants-") as folder:
        tree = Path(folder) / "tree"
        ignored = shutil.ignore_patterns(".git", ".tox", ".venv", ".genqual", "__pycache__", ".*_cache", ".hypothesis")
        shutil.copytree(ROOT, tree, ignore=ignored)
        # By default Python takes an old .pyc for a source of the same size and second: a mutant would not be seen.
        checked = py_compile.PycInvalidationMode.CHECKED_HASH
        compileall.compile_dir(tree / "plugins", quiet=1, invalidation_mode=checked)
        waiting = {name: _begun(name, tree) for name in names}
        left, deadline = sum(waiting.values()), time.monotonic() + 60 * options.minutes
        for name, count in waiting.items():
            _tried(name, tree, (deadline - time.monotonic()) * count / max(1, left))
            left -= count
        report({name: tree / f"{name}.sqlite" for name in names})
    return 0


def report(sessions: dict[str, Path]) -> None:
    """Score and survivors of what was tried, a module a line."""
    whole: Counter[str] = Counter()
    lines, survivors = [], []
    for name, session in sessions.items():
        with sqlite3.connect(session) as database:
            rows = database.execute(
                "select m.start_pos_row, m.operator_name, r.test_outcome, r.output, r.diff from mutation_specs m "
                "left join work_results r on r.job_id = m.job_id order by m.start_pos_row"
            ).fetchall()
        outcomes = Counter(_outcome(str(row[2]), str(row[3])) for row in rows if row[2])
        lines.append(f"  {name}: {len(rows)} mutants, {_said(outcomes)}")
        whole += outcomes
        survivors += [(name, *row) for row in rows if row[2] and _outcome(str(row[2]), str(row[3])) == "survived"]
    print("\n".join([f"all: {_said(whole)}", *lines, "survivors:"]))
    for name, line, operator, *_, diff in survivors:
        changed = [text for text in str(diff).splitlines() if text[:1] in "+-" and text[:3] not in ("+++", "---")]
        print(f"  {name}:{line} {operator}", *(f"      {text}" for text in changed), sep="\n")


def _outcome(said: str, output: str) -> str:
    found = said.rpartition(".")[2].lower()
    return "timed out" if found == "killed" and output == "timeout" else found


def _said(outcomes: Counter[str]) -> str:
    tried = outcomes.total() - outcomes["incompetent"]  # a mutant that cannot be run says nothing of a test
    share = 100 * (tried - outcomes["survived"]) / tried if tried else 0.0
    each = ", ".join(f"{count} {name}" for name, count in sorted(outcomes.items()))
    return f"{tried} tried, {share:.1f} % found ({each})"


def _begun(name: str, tree: Path) -> int:
    """Write the configuration and list the mutants; how many there are. Ends here when the honest tree fails."""
    config, session = tree / f"{name}.toml", tree / f"{name}.sqlite"
    config.write_text(_config(name), encoding="utf-8")
    _cosmic(["init", str(config), str(session)], tree)
    _cosmic(["baseline", str(config)], tree)
    with sqlite3.connect(session) as database:
        database.execute(
            "delete from work_items where job_id in "
            "(select job_id from mutation_specs where operator_name like '%BinaryOperator_BitOr%')"
        )
        database.execute("delete from mutation_specs where operator_name like '%BinaryOperator_BitOr%'")
        # Work items are taken in the order of the table: make it a fixed random one.
        jobs = [job for (job,) in database.execute("select job_id from work_items order by job_id")]
        random.Random(4).shuffle(jobs)
        database.execute("delete from work_items")
        database.executemany("insert into work_items (job_id) values (?)", [(job,) for job in jobs])
    return len(jobs)


def _tried(name: str, tree: Path, seconds: float) -> None:
    try:
        _cosmic(["exec", str(tree / f"{name}.toml"), str(tree / f"{name}.sqlite")], tree, limit=max(1.0, seconds))
    except subprocess.TimeoutExpired:
        print(f"{name}: its share of the time is spent", flush=True)


def _config(name: str) -> str:
    pytest = f"{sys.executable} -m pytest -x -q -p no:cacheprovider"
    if name == "suite":
        module, tests, limit = "suites/conformance", "tests/faults/test_every_property.py", 900
    else:
        module, limit = f"{CONFORMANCE}/{name}.py", 120
        tests = " ".join(f"tests/conformance/{test}.py" for test in GUARDS[name].split())
    return (
        f'[cosmic-ray]\nmodule-path = "{module}"\ntimeout = {limit}.0\nexcluded-modules = []\n'
        f'test-command = "{pytest} {tests}"\n[cosmic-ray.distributor]\nname = "local"\n'
    )


def _cosmic(step: list[str], tree: Path, limit: float | None = None) -> None:
    where = {**os.environ, "PYTHONPATH": str(tree / "plugins"), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "cosmic_ray.cli", *step], cwd=tree, env=where, check=True, timeout=limit)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
