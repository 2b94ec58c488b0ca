"""Which resident pages of a process are those of programs. No torch."""

from __future__ import annotations

import psutil


def program_bytes(process: psutil.Process) -> int | None:
    """Resident bytes of files that hold code; what was written to is not of the file. None where the system hides it.

    How many of a library's pages are resident is the page cache's doing: the same program had 78 MB of them in one
    environment and 132 in another, whose files lay there in larger pieces. psutil sums by file over rights or lists
    every mapping; which files hold code needs the mappings.
    """
    if not hasattr(process, "memory_maps"):  # a kernel without /proc/PID/smaps, or another system
        return None
    try:
        maps = [one for one in process.memory_maps(grouped=False) if one.path.startswith("/")]
    except (psutil.Error, OSError):
        return None
    code = {one.path for one in maps if "x" in one.perms}
    return sum(one.rss - one.anonymous for one in maps if one.path in code)
