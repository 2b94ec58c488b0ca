"""Small files of /proc and /sys, where an absent file is an answer. Standard library only; runs nothing."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def read(path: Path) -> str | None:
    """The stripped text of `path`, or None where the kernel has no such file or will not show it."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def whole(text: str | None, base: int = 10) -> int | None:
    """`text` as an integer, or None where it is absent or is no integer."""
    try:
        return None if text is None else int(text, base)
    except ValueError:
        return None


def read_int(path: Path) -> int | None:
    """The integer in `path`, or None."""
    return whole(read(path))


def fields(text: str | None) -> dict[str, str]:
    """Lines of `key value` or `key: value`, as /proc/meminfo, /proc/stat and cpu.stat have them; first key wins."""
    found: dict[str, str] = {}
    for line in (text or "").splitlines():
        key, _, value = line.partition(":") if ":" in line else line.partition(" ")
        found.setdefault(key.strip(), value.strip())
    return found


def chosen(text: str | None) -> str | None:
    """The word in brackets of a sysfs choice such as `always [madvise] never`."""
    return None if text is None or "[" not in text else text.split("[", 1)[1].split("]", 1)[0]


def cpu_list(text: str | None) -> tuple[int, ...]:
    """CPU numbers of a kernel list such as `0-3,8`, ascending. Raises ValueError on anything else."""
    numbers: set[int] = set()
    for part in (text or "").split(","):
        if part.strip():
            first, _, last = part.partition("-")
            numbers.update(range(int(first), int(last or first) + 1))
    return tuple(sorted(numbers))


def as_cpu_list(cpus: Iterable[int]) -> str:
    """The inverse of `cpu_list`: runs are joined, `0-3,8`."""
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and cpu == runs[-1][1] + 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
