"""Launches of one pinned commit, over hours, boots and hosts: how much does the gate's number drift?

    python -m tests.benchmarks.gate_over_time --minutes 12

Each call is one occasion. It builds the pinned commit in an environment of its own (once, kept in --state), starts
fresh processes until the minutes are spent, and appends every launch to docs/evidence/gate-over-time/CLASS/: raw step
times of the candidate and of eight controls, in fp32 and bf16, unchanged and with 5 % more work. Run it alone on the
host, hours apart, and commit what it adds. --report says what the whole record shows, and measures nothing.

Interrupt it at any time: launches that are done are kept.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import venv
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from platformdirs import user_state_path

from genqual.devices.registry import processor
from tests.benchmarks.over_time import record, report

PINNED: Final = "86ce22acc583802fa214ff5878a83b913a29a4a4"
ROOT: Final = Path(__file__).resolve().parents[2]
PARTS: Final = Path(__file__).with_name("over_time")
VERSION: Final = 1  # of the lines; another one for another order of steps or set of controls


def build(state: Path) -> tuple[Path, Path]:
    """Python and tree of the pinned commit, made on the first call. Raises SystemExit with what failed."""
    place = state / f"gate-over-time-{PINNED[:12]}-py{sys.version_info[0]}{sys.version_info[1]}"
    python, tree = place / "env" / "bin" / "python", place / "tree"
    if (place / "ready").is_file():
        return python, tree
    print("building the pinned commit in an environment of its own, about two minutes", file=sys.stderr, flush=True)
    shutil.rmtree(place, ignore_errors=True)
    tree.mkdir(parents=True)
    git = shutil.which("git") or "git"
    packed = subprocess.run([git, "-C", str(ROOT), "archive", "--format=tar", PINNED], capture_output=True, check=False)
    if packed.returncode:
        raise SystemExit(f"{PINNED[:12]} is not in this checkout ({packed.stderr.decode().strip()}); fetch its history")
    subprocess.run(["tar", "-x", "-C", str(tree)], input=packed.stdout, check=True)
    venv.create(place / "env", with_pip=True)
    install = [str(python), "-m", "pip", "install", "--quiet", str(tree), "torch", "transformers", "accelerate"]
    # By file and not by -c: an isolated build of a dependency has to see the pins too.
    environment = {**os.environ, "PIP_CONSTRAINT": (tree / "constraints" / "xeon.txt").as_uri()}
    if subprocess.run(install, env=environment, check=False, stdout=sys.stderr).returncode:
        raise SystemExit(f"the pinned environment could not be installed below {place}; see above")
    (place / "ready").touch()
    return python, tree


def head(python: Path) -> dict[str, Any]:
    """What all launches of this occasion share."""
    code = (
        "import json, platform, importlib.metadata as m; print(json.dumps({'python': platform.python_version(), "
        "**{n: m.version(n) for n in ('torch', 'transformers', 'numpy')}}))"
    )
    versions = json.loads(subprocess.run([str(python), "-c", code], capture_output=True, check=True).stdout)
    identity = processor().identity()
    pages = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return {
        "version": VERSION,
        "commit": PINNED,
        "class": identity.class_id,
        "host": _hashed(socket.gethostname() + _text("/etc/machine-id")),
        "boot": _hashed(_text("/proc/sys/kernel/random/boot_id")),
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "up_s": float(_text("/proc/uptime").split()[0]),
        "transparent_hugepage": pages.read_text().strip() if pages.is_file() else None,
        "versions": versions,
    }


def collect(minutes: float, dtypes: str, state: Path) -> Path:
    """One occasion; returns its file."""
    state.mkdir(parents=True, exist_ok=True)
    python, tree = build(state)
    first = head(python)
    stamp = first["began"].replace(":", "").replace("-", "")[:15]
    path = record.PLACE / str(first["class"]) / f"{stamp}Z-{first['host']}.jsonl.gz"
    command = [
        *(str(python), str(PARTS / "pinned.py"), "--minutes", str(minutes), "--dtypes", dtypes),
        *("--work", str(state / "gate-over-time.work")),
    ]
    # The pinned tree's tests hold the engine with more work; its plugins are installed in its environment.
    paths = [str(PARTS), str(tree)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    began, count = time.monotonic(), 0
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, cwd=tree) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if not count:
                record.append(path, first)
            launch = json.loads(line)
            record.append(path, launch)
            count += 1
            left = 60 * minutes - (time.monotonic() - began)
            print(f"{report.line(launch)}, {max(0.0, left):.0f} s left", file=sys.stderr, flush=True)
    if process.returncode or not count:
        raise SystemExit(f"the pinned build ended with {process.returncode} after {count} launches; see above")
    return path


def _hashed(text: str) -> str:
    return hashlib.sha256(f"genqual:{text}".encode()).hexdigest()[:12]


def _text(path: str) -> str:
    file = Path(path)
    return file.read_text() if file.is_file() else ""


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        "python -m tests.benchmarks.gate_over_time", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    made.add_argument("--minutes", type=float, default=12.0, help="of launches (default: %(default)s)")
    made.add_argument("--dtypes", default="fp32,bf16", help="in turns (default: %(default)s)")
    made.add_argument(
        "--state", type=Path, default=user_state_path("genqual"), help="for the pinned build (default: %(default)s)"
    )
    made.add_argument("--report", action="store_true", help="print what the record shows, and measure nothing")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    if options.minutes <= 0:
        parser().error(f"--minutes {options.minutes}: at least one launch needs about half a minute")
    if not options.report:
        path = collect(options.minutes, options.dtypes, options.state.absolute())
        print(f"added {path.relative_to(ROOT)}: commit it", file=sys.stderr)
    print(report.text(record.occasions()))
    return 0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
