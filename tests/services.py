"""What tests need of this machine besides Python packages. Absent, they skip with the command that brings it.

A CI installs them and sets GENQUAL_REQUIRE_SERVICES=1: what is absent then fails, since nothing else proves the same.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Final, NoReturn

import pytest

REQUIRED: Final = "GENQUAL_REQUIRE_SERVICES"
BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome")


def absent(what: str, command: str, *, by_ci: bool = True) -> NoReturn:
    """End a test, or what its fixture makes, because `what` is not here and `command` would bring it.

    Not `by_ci`: .ci/run does not install it, so a test that needs it is skipped there, too.
    """
    text = f"no {what} here: {command}"
    if by_ci and os.environ.get(REQUIRED, "0") not in ("", "0"):
        pytest.fail(f"{text} ({REQUIRED} is set: no skip)", pytrace=False)
    pytest.skip(text)


def browser() -> str:
    """The path of a Chromium."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    return found or absent("Chromium", "apt-get install -y chromium")


def compiler() -> str:
    """The path of a C++ compiler."""
    return shutil.which("g++") or absent("C++ compiler", "apt-get install -y g++")


def libaio() -> None:
    """The headers that DeepSpeed's async_io is compiled with."""
    tried = [compiler(), "-fsyntax-only", "-x", "c++", "-"]
    if subprocess.run(tried, input=b"#include <libaio.h>\n", capture_output=True, check=False).returncode:
        absent("libaio with its headers", "apt-get install -y libaio-dev")
