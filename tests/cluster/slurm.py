"""A real Slurm for tests: munged, slurmctld and slurmd of one node, in a temporary directory, on ports of their own."""

from __future__ import annotations

import getpass
import os
import resource
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from genqual.ranks.launchers import free_port

INSTALL: Final = "apt-get install -y slurm-wlm"
PROGRAMS: Final = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "squeue", "scontrol", "sinfo", "setpriv")

_START_S, _STOP_S = 60.0, 30.0
_SEARCHED: Final = f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin"  # where daemons are


def missing() -> list[str]:
    """The programs that are not here."""
    return [name for name in PROGRAMS if shutil.which(name, path=_SEARCHED) is None]


def until(what: str, holds: Callable[[], bool], seconds: float, told: Callable[[], str]) -> None:
    """Wait until `holds`. Raises AssertionError with what `told` says after `seconds`."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not within {seconds:.0f} s: {what}\n{told()}"
        time.sleep(0.2)  # Slurm's commands have no wait for a state


class Slurm:
    """One cluster of this host alone. `prolog` and `epilog` are paths, killed after `timeout_s`. `close` ends it."""

    def __init__(self, *, prolog: Path | None = None, epilog: Path | None = None, timeout_s: int = 900) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="genqual-slurm-"))
        self.folder.chmod(0o755)  # munge refuses a socket in a folder that others cannot enter
        self._started: list[subprocess.Popen[bytes]] = []
        self._prolog, self._epilog, self._timeout_s = prolog, epilog, timeout_s
        self.node = socket.gethostname().partition(".")[0]
        self.conf = self.folder / "slurm.conf"
        self.env = {**os.environ, "SLURM_CONF": str(self.conf)}
        for name in [name for name in self.env if name.startswith("SLURM_") and name != "SLURM_CONF"]:
            del self.env[name]  # of a job that these tests run in

    def start(self) -> None:
        """Run the three daemons until the node is idle."""
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        key = self.folder / "key"
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(128))
        self.conf.write_text(self._text())
        (self.folder / "cgroup.conf").touch()  # processes are followed by their parents: no control group is made
        files = {"socket": "munge", "pid-file": "munge.pid", "log-file": "munge.log", "seed-file": "munge.seed"}
        self._daemon("munged", "-F", f"--key-file={key}", *(f"--{n}={self.folder / f}" for n, f in files.items()))
        until("munged listens", (self.folder / "munge").exists, _START_S, self.log)
        self._daemon("slurmctld", "-D")
        self.slurmd = self._daemon("slurmd", "-D")
        until("the node is idle", lambda: self.state()[0] == "idle", _START_S, self.log)

    def _text(self) -> str:
        user, here = getpass.getuser(), self.folder
        settings = {
            "ClusterName": "genqual",
            "SlurmctldHost": f"{self.node}(127.0.0.1)",
            "SlurmctldPort": free_port(),
            "SlurmdPort": free_port(),
            "AuthType": "auth/munge",
            "AuthInfo": f"socket={here / 'munge'}",
            "SlurmUser": user,
            "SlurmdUser": user,
            "StateSaveLocation": here / "state",
            "SlurmdSpoolDir": here / "spool",
            "SlurmctldPidFile": here / "slurmctld.pid",
            "SlurmdPidFile": here / "slurmd.pid",
            "ProctrackType": "proctrack/linuxproc",
            "TaskPlugin": "task/none",
            "SelectType": "select/cons_tres",
            "SelectTypeParameters": "CR_Core",
            "ReturnToService": 2,
            "MpiDefault": "none",
            "PropagateResourceLimits": "NONE",
            "PrologFlags": "Alloc",  # as the examples say
            "PrologEpilogTimeout": self._timeout_s,  # they say 180, for a node that nobody else uses meanwhile
            **({"Prolog": self._prolog} if self._prolog else {}),
            **({"Epilog": self._epilog} if self._epilog else {}),
        }
        cores = len(os.sched_getaffinity(0))
        lines = [f"{name}={value}" for name, value in settings.items()]
        lines += [f"NodeName={self.node} NodeAddr=127.0.0.1 CPUs={cores} State=UNKNOWN"]
        lines += ["PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP"]
        return "\n".join(lines) + "\n"

    def _daemon(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        # pdeathsig: the daemons end with the tests even when those are killed.
        program = shutil.which(name, path=_SEARCHED) or name
        with (self.folder / f"{name}.log").open("ab") as log:
            command = ["setpriv", "--pdeathsig=TERM", program, *words]
            self._started.append(subprocess.Popen(command, env=self.env, stdout=log, stderr=log, cwd=self.folder))
        return self._started[-1]

    def log(self) -> str:
        """What the daemons said last."""
        found = sorted(self.folder.glob("*.log"))
        return "\n".join(f"--- {path.name}\n{path.read_text(errors='replace')[-2000:]}" for path in found)

    def run(self, *words: str) -> str:
        """What one of Slurm's commands prints. Raises AssertionError where it fails."""
        done = subprocess.run(words, env=self.env, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, f"{words}: {done.stderr}\n{self.log()}"
        return done.stdout.strip()

    def state(self) -> tuple[str, str]:
        """The node's state, such as `idle` or `drained`, and the reason for it. Before slurmctld answers: no state."""
        words = ["sinfo", "--noheader", "--Node", "--format=%T|%E"]
        done = subprocess.run(words, env=self.env, capture_output=True, text=True, check=False, timeout=60)
        state, _, reason = done.stdout.strip().partition("|")
        return state.rstrip("*~#!%$@^-"), reason

    def submit(self, script: str, *options: str) -> str:
        """The id of a batch job whose output is in `out/JOB`, or `out/JOB_TASK` of an array."""
        (self.folder / "out").mkdir(exist_ok=True)
        pattern = "%A_%a" if any(one.startswith("--array") for one in options) else "%j"
        words = ["sbatch", "--parsable", f"--chdir={self.folder}", f"--output={self.folder}/out/{pattern}", *options]
        done = subprocess.run(
            words, env=self.env, input=f"#!/bin/sh\n{script}\n", capture_output=True, text=True, check=True, timeout=60
        )
        return done.stdout.strip()

    def job(self, job: str) -> list[tuple[str, str]]:
        """State and reason of a job, one for each task of an array."""
        told = self.run("squeue", "--noheader", "--array", "--states=all", f"--jobs={job}", "--format=%T|%r")
        return [(line.partition("|")[0], line.partition("|")[2]) for line in told.splitlines()]

    def wait_for_job(self, job: str, *states: str, seconds: float = 300.0) -> None:
        """Until all tasks of the job are in one of `states`."""

        def said() -> str:
            output = [path.read_text(errors="replace")[-2000:] for path in (self.folder / "out").glob(f"{job}*")]
            return f"{self.job(job)} {self.state()}\n" + "\n".join(output) + self.log()

        until(f"job {job} {states}", lambda: {one for one, _ in self.job(job)} <= set(states), seconds, said)

    def wait_for_node(self, state: str, seconds: float = 300.0) -> str:
        """The reason of the node's state, once it is in it."""
        until(f"node {state}", lambda: self.state()[0] == state, seconds, lambda: f"{self.state()}\n{self.log()}")
        return self.state()[1]

    def limit_memory(self, most: int) -> None:
        """How many bytes each process may map that slurmd starts from now on, itself too; -1 lifts the limit."""
        resource.prlimit(self.slurmd.pid, resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))

    def close(self) -> None:
        """End jobs, then daemons in the order against their start, and remove the folder."""
        try:
            if self.conf.exists():
                words = ["scancel", "--full", "--signal=KILL", f"--user={getpass.getuser()}"]
                subprocess.run(words, env=self.env, capture_output=True, check=False, timeout=60)
            for process in reversed(self._started):
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(_STOP_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait(_STOP_S)
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
