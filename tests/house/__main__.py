"""Print the structure: `python -m tests.house`. Exit status 1 on an import that points upwards, and on a circle."""

from __future__ import annotations

import sys
from collections import Counter

from tests.house.structure import Tree


def main() -> int:
    tree = Tree()
    lines: Counter[str] = Counter()
    for path in tree.files:
        lines[tree.room(tree.parts(path))] += len(path.read_text(encoding="utf-8").splitlines())
    whole = sum(lines.values())
    for name in tree.packages:
        below = sorted(there for here, there in tree.arrows if here == name)
        print(f"{name:24} {lines[name]:6} lines {lines[name] / whole:4.0%} -> {', '.join(below) or 'nothing'}")
    print(f"{len(tree.packages)} packages, {len(tree.arrows)} arrows, {len(tree.circles)} circles")
    problems = [*tree.upward, *(f"circle: {' <-> '.join(group)}" for group in tree.circles), *tree.too_long]
    print(*problems, sep="\n")
    return 1 if tree.upward or tree.circles else 0


if __name__ == "__main__":
    sys.exit(main())
