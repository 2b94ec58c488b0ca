"""A process that has imported pytest and the plugin, and runs the suite in a fork of itself, once a request.

`python -m tests.plugin.forked` reads requests and answers exit codes, a line of JSON each. Importing is most of a run
that starts no rank, and the same in each; nothing that a run does is seen by the next. It never imports torch.
Another module that ends in `serve` runs something else so: its name is `module` of `run`.
"""

from __future__ import annotations

import asyncio  # noqa: F401 - by plugins of pytest; imported once for all forks
import atexit
import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest

import genqual.fixtures
import genqual.plugin  # noqa: F401 - imported once for all forks

ROOT: Final = Path(__file__).resolve().parents[2]


@cache
def _server(module: str) -> subprocess.Popen[str]:
    """The process that forks; it ends with this one, whose pipe it reads."""
    made = subprocess.Popen(
        [sys.executable, "-m", module],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    atexit.register(made.communicate)
    return made


def run(
    args: Sequence[str], env: Mapping[str, str], timeout: float, module: str = "tests.plugin.forked"
) -> subprocess.CompletedProcess[str]:
    """`python -m pytest ARGS` at the root of the checkout, as `subprocess.run` gives it; `timeout` in seconds.

    Raises TimeoutExpired. The environment of `env` is the run's from its beginning, but not that of what is imported:
    what PYTHONPATH adds is not found.
    """
    server = _server(module)
    assert server.stdin is not None
    assert server.stdout is not None
    with tempfile.TemporaryDirectory() as folder:
        out, err = (Path(folder, name) for name in ("out", "err"))
        request = {"args": list(args), "env": dict(env), "timeout": timeout, "out": str(out), "err": str(err)}
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        said = [path.read_text(encoding="utf-8", errors="replace") for path in (out, err)]
    if code == -signal.SIGALRM:
        raise subprocess.TimeoutExpired(list(args), timeout, *said)
    return subprocess.CompletedProcess(list(args), code, *said)


def _become(request: dict[str, Any]) -> None:
    """Environment, words and streams of the run that this fork is."""
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv[1:] = request["args"]
    for number, name in ((0, os.devnull), (1, request["out"]), (2, request["err"])):
        opened = os.open(name, os.O_RDWR | os.O_CREAT, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - and not what is left of the requests
    signal.setitimer(signal.ITIMER_REAL, request["timeout"])


def serve(main: Callable[[], object]) -> None:
    """Call `main` in a fork for each request, until the input ends; what it gives is the exit code."""
    gc.freeze()  # what is here already is no garbage of a run, and pytest collects twice at the end of each
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _become(json.loads(line))
            raise SystemExit(main())
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    serve(pytest.main)
