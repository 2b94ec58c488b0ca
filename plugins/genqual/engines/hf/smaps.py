"""Which resident pages of a process are those of programs. No torch."""

from __future__ import annotations


def program_bytes(smaps: str) -> int:
    """Resident bytes of files that hold code, from the text of /proc/PID/smaps; what was written to is not of the file.

    How many of a library's pages are resident is the page cache's doing: the same program had 78 MB of them in one
    environment and 132 in another, whose files lay there in larger pieces.
    """
    resident: dict[str, int] = {}
    code: set[str] = set()
    path = ""
    for line in smaps.splitlines():
        words = line.split(maxsplit=5)
        if not words[0].endswith(":"):  # the head of a mapping: addresses, rights, offset, device, inode, file
            path = words[5] if len(words) == 6 and words[5].startswith("/") else ""
            if "x" in words[1]:
                code.add(path)
        elif path and words[0] in ("Rss:", "Anonymous:"):
            sign = 1 if words[0] == "Rss:" else -1
            resident[path] = resident.get(path, 0) + sign * int(words[1]) * 1024
    return sum(size for path, size in resident.items() if path in code)
