"""What all that is measured on one occasion shares: the build, the host, the hour."""

from __future__ import annotations

import hashlib
import json
import socket
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from genqual.devices.registry import processor
from tests.benchmarks.over_time.pinned_build import Build


def head(build: Build, commit: str, packages: Sequence[str]) -> dict[str, Any]:
    """Of this moment. Names of the host and of its boot are hashed; `packages` are those of the build."""
    code = (
        "import json, platform, sys, importlib.metadata as m; print(json.dumps({'python': platform.python_version(), "
        "**{n: m.version(n) for n in sys.argv[1:]}}))"
    )
    asked = subprocess.run([str(build.python), "-c", code, *packages], capture_output=True, check=True)
    pages = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return {
        "commit": commit,
        "class": processor().identity().class_id,
        "host": _hashed(socket.gethostname() + _text("/etc/machine-id")),
        "boot": _hashed(_text("/proc/sys/kernel/random/boot_id")),
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "up_s": float(_text("/proc/uptime").split()[0]),
        "transparent_hugepage": pages.read_text().strip() if pages.is_file() else None,
        "versions": json.loads(asked.stdout),
    }


def stamp(first: dict[str, Any]) -> str:
    """The name of an occasion's file, without its ending: when it began, and where."""
    return f"{str(first['began']).replace(':', '').replace('-', '')[:15]}Z-{first['host']}"


def _hashed(text: str) -> str:
    return hashlib.sha256(f"genqual:{text}".encode()).hexdigest()[:12]


def _text(path: str) -> str:
    file = Path(path)
    return file.read_text() if file.is_file() else ""
