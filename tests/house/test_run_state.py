"""What a run is made of belongs to its parts: who uses a run asks it by methods and never writes its state."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.house.structure import Tree

CHANGES = {
    "add", "append", "clear", "discard", "extend", "insert", "pop", "popitem", "remove", "setdefault", "sort", "update",
}  # fmt: skip
OUTSIDE = ("plugins/genqual/plugin.py", "plugins/genqual/faults/", "plugins/genqual/session/", "fixtures/", "suites/")


def of_a_run(node: ast.expr) -> bool:
    """Whether an expression is something of a run: `run.x`, `stash[RUN].x`, `run.x.y`, `run.x[key]`."""
    below = False
    while isinstance(node, ast.Attribute | ast.Subscript):
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Name) and node.slice.id == "RUN":
            return below
        below = below or isinstance(node, ast.Attribute)
        node = node.value
    return below and isinstance(node, ast.Name) and node.id == "run"


def writes(source: str) -> Iterator[int]:
    """The lines that set something of a run, or change a container of it."""
    for node in ast.walk(ast.parse(source)):
        targets: list[ast.expr] = []
        if not isinstance(node, ast.stmt | ast.expr):
            continue
        if isinstance(node, ast.Assign | ast.Delete):
            targets = node.targets
        elif isinstance(node, ast.AugAssign | ast.AnnAssign):
            targets = [node.target]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CHANGES:
            targets = [node.func.value]
        if any(of_a_run(target) for target in targets):
            yield node.lineno


def test_nobody_writes_the_state_of_a_run_from_outside() -> None:
    tree = Tree()
    files = [path for path in tree.files if path.relative_to(tree.root).as_posix().startswith(OUTSIDE)]
    assert len(files) > 40
    found = [f"{path.relative_to(tree.root)}:{line}" for path in files for line in writes(path.read_text("utf-8"))]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "run.pushed = 3", "run.asked[case] = names", "run.first_item[case, w] += 1", "del run.x[0]",
        "run.warnings.append(text)", "run.waivers.tests[case.id, w.id] = nodeid",
        "config.stash[RUN].collected.update(x)", "item.config.stash[RUN].measuring.wrong.add(case)",
        "run.options: int = 4",
    ],
)  # fmt: skip
def test_each_way_to_write_it_is_seen(line: str) -> None:
    assert list(writes(line)) == [1]


@pytest.mark.parametrize(
    "line", ["run = 3", "run.warn(text)", "runs.append(1)", "config.stash[RUN] = run", "x = run.y"]
)
def test_what_writes_nothing_of_a_run_is_let_be(line: str) -> None:
    assert list(writes(line)) == []
