"""Where these tests run: the device of this host's own processor. Every engine runs on it, a Xeon or another."""

from __future__ import annotations

import shlex
import sys
from typing import Final

from genqual.devices.registry import processor

CPU: Final = processor().name
"""`xeon` on an Intel Xeon, `cpu` on any other processor."""

NATIVE: Final = processor().native_dtype
"""What the embedded profile times here: bf16, or fp32 on a processor without instructions for it."""

PYTHON: Final = shlex.quote(sys.executable)
"""This Python as a word of a shell's command, also where its path has spaces."""


def python_script(body: str, *flags: str) -> str:
    """An executable file's text that this Python runs. A `#!` line cannot name a path with spaces, so sh starts it."""
    return f"#!/bin/sh\n'''exec' {' '.join((PYTHON, *flags))} \"$0\" \"$@\"\n' '''\n{body}"
