"""Break the judges on purpose, line by line, and count which breakage no test sees: a mutation run with cosmic-ray.

    tox -e mutants                            # 30 minutes at most, on a copy of the tree
    tox -e mutants -- --only judge,judgement  # some modules

Each judging module has the quick tests that guard it, and its share of the time. A mutant of a property in
suites/conformance is judged on a live engine (tests.benchmarks.suite_mutant, ten seconds each): it is found when that
property misses its own fault or alarms on a run that is right. Mutants are tried in a fixed shuffled order, so that a
budget that ends early is a fair sample. What `|` becomes is left out: nearly all of them are types of signatures.
Prints the score and the survivors, as diffs.
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
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.benchmarks.suite_mutant import NOTICED, weakened
from tests.faults.finders import ELSEWHERE
from tests.here import PYTHON

ROOT: Final = Path(__file__).resolve().parents[2]
CONFORMANCE: Final = "plugins/genqual/conformance"
GUARDS: Final = {  # module: the tests of it, those that notice most first
    "judge": "test_judge test_same test_envelope",
    "judgement": "test_judge test_envelope test_same",
    "envelope": "test_envelope",
    "judge_parts": "test_same test_judge",
    "judge_own": "test_judge_own",
    "judge_free": "test_free_run",
    "judge_top": "test_judge_top",
    "judge_text": "test_judge_text",
    "calibration": "test_leave_one_out",
    "bisect": "test_bisect",
    "other_rules": "test_judge_text",
    "scores": "test_reference",
}
SUITE: Final = {
    file.stem.removeprefix("test_"): file.name for file in sorted((ROOT / "suites/conformance").glob("test_*"))
}
COST: Final = {"suite": 10.0, "judges": 2.0}  # seconds a mutant, to share the time by


def main(arguments: list[str]) -> int:
    """Make the copy, run until the budget is spent, report; exits with 0 whatever the score."""
    parser = argparse.ArgumentParser("python -m tests.benchmarks.mutants", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--only", help="some of: judges, suite, " + ", ".join([*GUARDS, *SUITE]))
    options = parser.parse_args(arguments)
    names = _named(options.only, parser)
    weak: list[tuple[str, str, bool]] = []
    with tempfile.TemporaryDirectory(prefix="genqual-mutants-") as folder:
        tree = Path(folder) / "tree"
        ignored = shutil.ignore_patterns(".git", ".tox", ".venv", ".genqual", "__pycache__", ".*_cache", ".hypothesis")
        shutil.copytree(ROOT, tree, ignore=ignored)
        # By default Python takes an old .pyc for a source of the same size and second: a mutant would not be seen.
        checked = py_compile.PycInvalidationMode.CHECKED_HASH
        compileall.compile_dir(tree / "plugins", quiet=1, invalidation_mode=checked)
        shutil.copytree(ROOT / "suites/conformance", tree / "pristine")
        if set(names) & set(SUITE):
            weak = _weakened([SUITE[name] for name in names if name in SUITE], tree)
        waiting = {name: _begun(name, tree) * COST["suite" if name in SUITE else "judges"] for name in names}
        left, deadline = sum(waiting.values()), time.monotonic() + 60 * options.minutes
        for name, cost in waiting.items():
            _tried(name, tree, (deadline - time.monotonic()) * cost / max(1.0, left))
            left -= cost
        report({name: tree / f"{name}.sqlite" for name in names}, weak)
    return 0


def _named(only: str | None, parser: argparse.ArgumentParser) -> list[str]:
    whole = {"judges": list(GUARDS), "suite": list(SUITE)}
    names = [name for word in (only or "judges,suite").split(",") for name in whole.get(word, [word])]
    if unknown := [name for name in names if name not in GUARDS and name not in SUITE]:
        parser.error(f"--only {', '.join(unknown)}: there are judges, suite, {', '.join([*GUARDS, *SUITE])}")
    return names


def _weakened(files: list[str], tree: Path) -> list[tuple[str, str, bool]]:
    """Every property without its check, and compared with itself: its name, how, whether it was noticed.

    A property is tried unchanged, too: whatever is noticed of that says nothing of a weakened one.
    """
    found = []
    for file in files:
        whole = (tree / "pristine" / file).read_text(encoding="utf-8")
        place = tree / "suites" / "conformance" / file
        unchanged: dict[str, int] = {}
        for test, how, text in weakened(whole):
            if test in ELSEWHERE:
                continue  # no fault in an engine shows it
            if test not in unchanged:
                place.write_text(whole, encoding="utf-8")
                unchanged[test] = _guard(file, tree, "--test", test)
            place.write_text(text, encoding="utf-8")
            said = told(unchanged[test], _guard(file, tree))
            found.append((test, how, said == "found"))
            print(f"  {test}, {how}: {said}", flush=True)
        place.write_text(whole, encoding="utf-8")
    return found


def told(unchanged: int, weak: int) -> str:
    """What two exits of suite_mutant say: of a property as it is, and weakened."""
    if unchanged:
        return f"SAYS NOTHING: unchanged, it ends with {unchanged}, too"
    return {0: "SURVIVES", NOTICED: "found"}.get(weak, f"SAYS NOTHING: weakened, it ends with {weak}")


def _guard(file: str, tree: Path, *more: str) -> int:
    command = [sys.executable, "-m", "tests.benchmarks.suite_mutant", f"pristine/{file}", f"suites/conformance/{file}"]
    return subprocess.run(
        [*command, *more], cwd=tree, env=_environment(tree), check=False, capture_output=True
    ).returncode


def report(sessions: dict[str, Path], weak: Sequence[tuple[str, str, bool]] = ()) -> None:
    """Score and survivors of what was tried, a module a line."""
    if weak:
        print(f"properties weakened: {len(weak)} tried, {sum(found for *_, found in weak)} found")
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
    """Write the configuration and list the mutants; how many there are. Ends here when the fault-free tree fails."""
    config, session = tree / f"{name}.toml", tree / f"{name}.sqlite"
    config.write_text(_config(name), encoding="utf-8")
    _cosmic(["init", str(config), str(session)], tree)
    _cosmic(["baseline", str(config)], tree)
    # Numbers in a suite are sizes of its examples: another size is another example, not a weaker check.
    left_out = ["%BinaryOperator_BitOr%", *(["%NumberReplacer%"] if name in SUITE else [])]
    with sqlite3.connect(session) as database:
        for operators in left_out:
            jobs_of = "select job_id from mutation_specs where operator_name like ?"
            database.execute(f"delete from work_items where job_id in ({jobs_of})", [operators])
            database.execute("delete from mutation_specs where operator_name like ?", [operators])
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
    if name in SUITE:
        module, limit = f"suites/conformance/{SUITE[name]}", 900
        command = f"{PYTHON} -m tests.benchmarks.suite_mutant pristine/{SUITE[name]} {module}"
    else:
        module, limit = f"{CONFORMANCE}/{name}.py", 120
        tests = " ".join(f"tests/conformance/{test}.py" for test in GUARDS[name].split())
        command = f"{PYTHON} -m pytest -x -q -p no:cacheprovider {tests}"
    return (
        f'[cosmic-ray]\nmodule-path = "{module}"\ntimeout = {limit}.0\nexcluded-modules = []\n'
        f'test-command = "{command}"\n[cosmic-ray.distributor]\nname = "local"\n'
    )


def _cosmic(step: list[str], tree: Path, limit: float | None = None) -> None:
    command = [sys.executable, "-m", "cosmic_ray.cli", *step]
    subprocess.run(command, cwd=tree, env=_environment(tree), check=True, timeout=limit)


def _environment(tree: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(tree / "plugins"), "OMP_NUM_THREADS": "1"}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
