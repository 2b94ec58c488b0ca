"""Is a change of suites/conformance noticed? Judges the properties that changed by a fault of their own, and rightly.

    python -m tests.benchmarks.suite_mutant PRISTINE_FILE CHANGED_FILE [--test NAME]

Exits with 1 when a property that was changed (or the one that is named, changed or not) misses one of its faults of
tests/faults/finders.py, alarms on a run that is right, or cannot be run; with 0 when nothing notices; with 3 when it
took too long to say. `tests.benchmarks.mutants` asks it of every mutant.
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from genqual.faults.matrix.store import FAULT_FREE, Store
from genqual.faults.matrix.tables import FaultMatrix
from tests.faults.finders import ELSEWHERE, FINDERS, where
from tests.here import CPU

LIMIT_S: Final = 240
NOTICED: Final = 1
TOO_LONG: Final = 3
CHECKS: Final = {"verdict", "examples"}
COMPARISONS: Final = {"same", "judge_bitwise", "judge_same_text", "judge_stopped", "judge_shards", "judge_unmutated"}


def weakened(source: str) -> Iterator[tuple[str, str, str]]:
    """For each property of a file: its name, how it was weakened, and the file then.

    Once without its check; and once with a comparison of a thing with itself, where it compares two.
    """
    names = [node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    for name in names:
        for how, change in (("its check removed", _Removed()), ("compared with itself", _Itself())):
            tree = ast.parse(source)
            test = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name)
            if name.startswith("test_"):
                change.visit(test)
                text = ast.unparse(ast.fix_missing_locations(tree))
                if changed(source, text):
                    yield name, how, text


class _Removed(ast.NodeTransformer):
    """Takes out the statements that judge."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        call = node.value
        judges = isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in CHECKS
        return ast.Pass() if judges else node


class _Itself(ast.NodeTransformer):
    """Gives a comparison its first argument twice."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in COMPARISONS and len(node.args) > 1:
            node.args[1] = node.args[0]
        return node


def changed(pristine: str, mutated: str) -> list[str]:
    """The tests whose source differs; all of the file where something that they share does."""
    before, after = (_parts(text) for text in (pristine, mutated))
    tests = [name for name in before if name.startswith("test_")]
    if any(before[name] != after.get(name) for name in before if name not in tests):
        return tests
    return [name for name in tests if before[name] != after.get(name)]


def _parts(text: str) -> dict[str, str]:
    """Functions by their name with decorators, and what is outside of them as `""`."""
    found: dict[str, str] = {"": ""}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = ast.dump(node)
        else:
            found[""] += ast.dump(node)
    return found


def noticed(test: str, file: Path) -> bool:
    """Whether one of its faults is missed, a fault-free run alarms, or neither could be judged."""
    run, *faults = FINDERS[test]
    engine, ranks, dtype = where(run)
    with tempfile.TemporaryDirectory(prefix="genqual-mutant-") as folder:
        store = Path(folder) / "cells.jsonl"
        subprocess.run(
            [
                *(sys.executable, "-m", "pytest", f"{file}::{test}", "-p", "genqual.faults.matrix.plugin", "-q"),
                *("-m", f"conformance and {CPU}", "--engine", engine, "--model", "llama-tiny", "--dtype", dtype),
                *("--ranks", ranks, "--faults", ",".join([FAULT_FREE, *faults]), "--faults-store", str(store)),
                *("--no-upload", "--no-shrink", "-p", "no:cacheprovider", f"--state-dir={folder}/state"),
            ],
            check=False,
            timeout=LIMIT_S,
            capture_output=True,
        )
        matrix = FaultMatrix(Store(store).cells.values())
        fault_free = [cell for cell in matrix.fault_free() if cell.outcome == "pass"]
        missed = [fault for fault in faults if matrix.lanes(fault, test) not in ("F", "D")]
        return not fault_free or bool(matrix.false_alarms()) or bool(missed)


def main(arguments: list[str]) -> int:
    """The pristine and the changed file; the changed one stands where the suite is run from."""
    parser = argparse.ArgumentParser("python -m tests.benchmarks.suite_mutant", description=__doc__)
    parser.add_argument("pristine", type=Path)
    parser.add_argument("changed", type=Path)
    parser.add_argument("--test", help="this property only, whether it was changed or not")
    options = parser.parse_args(arguments)
    texts = [file.read_text(encoding="utf-8") for file in (options.pristine, options.changed)]
    for test in [options.test] if options.test else changed(*texts):
        if test in ELSEWHERE:
            print(f"{test}: {ELSEWHERE[test]}; not judged here")
            continue
        try:
            seen = noticed(test, options.changed)
        except subprocess.TimeoutExpired:
            print(f"{test}: not judged within {LIMIT_S} s")
            return TOO_LONG
        print(f"{test}: {'noticed' if seen else 'not noticed'}")
        if seen:
            return NOTICED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
