"""How a rank group is started: one command line a launcher, never a launcher of our own. No torch, starts nothing.

torchrun is the default, and every failure is tested under it. deepspeed and Open MPI's mpirun are run by heavy tests
where installed, on one host, srun within an allocation. mpirun is also run over hosts that are network namespaces, with
links that are cut, slow or lossy; srun over several hosts is proved by its command line only.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from genqual.devices.base import Placement
from genqual.errors import BadInput, pip_install

MODULE: Final = "genqual.ranks.worker"
# What a surrounding job (torchrun, an MPI shell) may have left in the environment and would mislead our ranks.
_FOREIGN: Final = re.compile(
    r"(RANK|WORLD_SIZE|LOCAL_RANK|LOCAL_SIZE|LOCAL_WORLD_SIZE|GROUP_RANK|GROUP_WORLD_SIZE|ROLE_\w+|MASTER_ADDR|"
    r"MASTER_PORT|TORCHELASTIC_\w+|PMI_\w+|PMIX_\w+|OMPI_\w+|GENQUAL_(GROUP|CONTROL|AUTHKEY|LOGS|BACKEND|RANK_ENV|CORES|AHEAD|HOSTS))"
)

# What a user sets for ranks wherever they are: where packages are found, how ranks talk to each other.
_TRAVELS: Final = re.compile(r"PYTHONPATH|(GLOO|NCCL|HCCL)_\w+")


@dataclass(frozen=True, slots=True)
class RankJob:
    """What a launcher is asked for: `ranks` processes, on this host or spread evenly over `hosts`."""

    ranks: int
    logs: Path
    hosts: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()  # the user's own, passed to the launcher as they are
    exports: tuple[str, ...] = ()  # names of variables that other hosts must be given
    python: str = sys.executable

    def __post_init__(self) -> None:
        if self.ranks % max(len(self.hosts), 1):
            raise BadInput(f"{self.ranks} ranks on {len(self.hosts)} hosts: every host must get the same number")

    @property
    def ranks_per_host(self) -> int:
        return self.ranks // max(len(self.hosts), 1)

    @property
    def several_hosts(self) -> bool:
        return len(self.hosts) > 1


class Launcher(Protocol):
    """A program that starts ranks. Stateless; `log` is what the launcher itself wrote."""

    name: str
    program: str  # a module if it has a dot, else an executable on the PATH

    def command(self, job: RankJob) -> list[str]: ...

    def environment(self, job: RankJob) -> dict[str, str]: ...

    def exits(self, log: str) -> dict[int, int]:
        """Exit codes by rank, as the launcher reported them; a signal is negative. Unreported ranks are left out."""
        ...


class Torchrun:
    """PyTorch's own launcher. One host: on several, torchrun needs a starter on each of them."""

    name = "torchrun"
    program = "torch.distributed.run"

    def command(self, job: RankJob) -> list[str]:
        if job.several_hosts:
            raise BadInput(f"--launcher torchrun on {', '.join(job.hosts)}: it starts ranks on this host only; "
                           "use --launcher mpirun or srun for several hosts")  # fmt: skip
        # The agent binds port 0 and keeps the store it got as the ranks' MASTER_PORT: no port can be taken meanwhile.
        # A literal address, because a host's own name need not resolve.
        return [
            *(
                job.python,
                "-m",
                self.program,
                "--nnodes=1",
                f"--nproc-per-node={job.ranks}",
                "--max-restarts=0",
                "--monitor-interval=0.1",
            ),
            *("--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--rdzv-conf=is_host=1", "--local-addr=127.0.0.1"),
            *(f"--log-dir={job.logs / 'torchrun'}", *job.arguments, "--module", MODULE),
        ]

    def environment(self, job: RankJob) -> dict[str, str]:
        return {}

    def exits(self, log: str) -> dict[int, int]:
        found = re.findall(r"rank\s*: (\d+) \(local_rank: \d+\)\s+exitcode\s*: (-?\d+)", log)
        return {int(rank): int(code) for rank, code in found}


class Alone:
    """One rank needs no launcher: it is started as the program it is, a second and a half sooner than by torchrun."""

    name = "none"
    program = sys.executable

    def command(self, job: RankJob) -> list[str]:
        if job.ranks != 1:
            raise BadInput(f"--launcher none starts one rank, not {job.ranks}; use --launcher torchrun")
        return [job.python, "-u", "-m", MODULE]

    def environment(self, job: RankJob) -> dict[str, str]:
        return {**_master(job), "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}

    def exits(self, log: str) -> dict[int, int]:
        return {}  # nobody stands between: the exit code of the process is the rank's


class DeepSpeed:
    """DeepSpeed's launcher on this host; its multi-node form does not export our variables."""

    name = "deepspeed"
    program = "deepspeed.launcher.runner"

    def command(self, job: RankJob) -> list[str]:
        if job.several_hosts:
            raise BadInput(f"--launcher deepspeed on {', '.join(job.hosts)}: it passes only variables of its own list "
                           "to other hosts; use --launcher mpirun or srun")  # fmt: skip
        return [
            *(job.python, "-m", self.program, f"--num_gpus={job.ranks}", "--hostfile=/dev/null"),
            *("--master_addr=127.0.0.1", f"--master_port={free_port()}", "--no_local_rank", *job.arguments),
            *("--module", MODULE),
        ]

    def environment(self, job: RankJob) -> dict[str, str]:
        return {}

    def exits(self, log: str) -> dict[int, int]:
        return {}  # it logs the code of the first process to fail without saying which rank it was


class Mpirun:
    """Open MPI. Variables cross to other hosts by name (`-x NAME`), so that no secret stands in a command line."""

    name = "mpirun"
    program = "mpirun"

    def command(self, job: RankJob) -> list[str]:
        where = ["--host", ",".join(f"{host}:{job.ranks_per_host}" for host in job.hosts)] if job.hosts else []
        root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
        # Binding is ours (LOCAL_SIZE, cores by local rank), and a host may have fewer slots than ranks want cores.
        exports = [word for name in sorted(job.exports) for word in ("-x", name)]
        # Its daemon on a host that cannot be reached any more ends itself and its ranks, sooner than these would (see
        # protocol.SILENT_S); by default after eight minutes.
        alive = {"oob_tcp_keepalive_time": 3, "oob_tcp_keepalive_intvl": 3, "oob_tcp_keepalive_probes": 3}
        daemons = [word for name, value in alive.items() for word in ("--mca", name, str(value))]
        return [
            *(self.program, *root, "-np", str(job.ranks), *where, "--bind-to", "none", "--map-by", ":OVERSUBSCRIBE"),
            *(*(daemons if job.several_hosts else ()), *exports, *job.arguments, job.python, "-u", "-m", MODULE),
        ]

    def environment(self, job: RankJob) -> dict[str, str]:
        return _master(job)

    def exits(self, log: str) -> dict[int, int]:
        killed = re.findall(r"process rank (\d+) with PID \d+ on node \S+ exited on\s+signal (\d+)", log)
        left = re.findall(r"Process name: \[\S+,(\d+)\]\s+Exit code:\s+(\d+)", log)
        return {int(rank): -int(sign) for rank, sign in killed} | {int(rank): int(code) for rank, code in left}


class Srun:
    """Slurm, inside an allocation (`salloc`, `sbatch`)."""

    name = "srun"
    program = "srun"

    def command(self, job: RankJob) -> list[str]:
        where = [f"--nodes={len(job.hosts)}", f"--nodelist={','.join(job.hosts)}"] if job.hosts else ["--nodes=1"]
        return [
            *(self.program, f"--ntasks={job.ranks}", f"--ntasks-per-node={job.ranks_per_host}", *where),
            # A step holds its cores to its end, and the next waits for them: groups that are kept would never be two.
            *("--export=ALL", "--overlap", "--kill-on-bad-exit=1", "--cpu-bind=none", "--unbuffered", *job.arguments),
            *(job.python, "-u", "-m", MODULE),
        ]

    def environment(self, job: RankJob) -> dict[str, str]:
        return _master(job)

    def exits(self, log: str) -> dict[int, int]:
        # One line for all that ended alike on a node: `task 1: Killed`, `tasks 0-2,5: Exited with exit code 1`.
        signals = {"Killed": 9, "Terminated": 15, "Segmentation fault": 11, "Aborted": 6}
        words = "|".join(signals)
        found = re.findall(rf"tasks? ([\d,-]+): (?:Exited with exit code (\d+)|({words}))", log)
        exits = [(_numbers(ranks), int(code) if code else -signals[word]) for ranks, code, word in found]
        return {rank: code for ranks, code in exits for rank in ranks}


def _numbers(text: str) -> list[int]:
    """Slurm's way of writing several: `0-2,5`."""
    ends = [part.partition("-") for part in text.split(",")]
    return [number for first, _, last in ends for number in range(int(first), int(last or first) + 1)]


LAUNCHERS: Final[Mapping[str, Launcher]] = {
    one.name: one for one in (Torchrun(), DeepSpeed(), Mpirun(), Srun(), Alone())
}


def launcher(name: str) -> Launcher:
    """Look a launcher up. Raises BadInput naming those that exist, or the package or program that is missing."""
    if name not in LAUNCHERS:
        raise BadInput(f"--launcher {name}: genqual knows {', '.join(LAUNCHERS)}")
    found = LAUNCHERS[name]
    package, _, module = found.program.partition(".")
    if isinstance(found, Alone):
        return found
    if module and importlib.util.find_spec(package) is None:
        raise BadInput(f"--launcher {name} needs {package}, which is not installed for {sys.executable}: "
                       f"{pip_install(package)}")  # fmt: skip
    if not module and shutil.which(package) is None:
        raise BadInput(f"--launcher {name} needs the program {package}, which is not on PATH; install it or load its "
                       "module, or use --launcher torchrun on one host")  # fmt: skip
    return found


def free_port(host: str = "127.0.0.1") -> int:
    """A port that is free now; for launchers that cannot hold it until the ranks bind it, so it may be taken."""
    with socket.create_server((host, 0)) as server:
        return int(server.getsockname()[1])


def listen_address(job: RankJob) -> str:
    """The address of this host that every rank can reach: loopback, or the one that faces the other hosts."""
    if not job.several_hosts:
        return "127.0.0.1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # connecting a UDP socket sends nothing
        probe.connect((job.hosts[-1], 9))
        return str(probe.getsockname()[0])


def _master(job: RankJob) -> dict[str, str]:
    return {"MASTER_ADDR": job.hosts[0] if job.several_hosts else "127.0.0.1", "MASTER_PORT": str(free_port())}


def exported(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Names of what other hosts must be given: all that is ours, and what of the user's own they would miss."""
    ours = (name for name, value in environment.items() if os.environ.get(name) != value)
    return tuple(sorted({*ours, *filter(_TRAVELS.fullmatch, environment)}))


def rank_environment(placement: Placement, job: RankJob, control: Mapping[str, str]) -> dict[str, str]:
    """The environment of the launcher, and so of every rank: ours, cleaned, plus what all ranks share.

    What differs between ranks travels as JSON and is applied by the worker before it imports anything heavy.
    """
    ours = {name: value for name, value in os.environ.items() if not _FOREIGN.fullmatch(name)}
    shared = dict(set.intersection(*(set(env.items()) for env in placement.env))) if placement.env else {}
    fixed = {
        "LOCAL_SIZE": str(job.ranks_per_host),  # DeepSpeed dies by SIGSEGV without it under torchrun
        "PYTHONUNBUFFERED": "1",
        "PYTHONSAFEPATH": "1",  # a folder named `torch` where pytest was started must not shadow the package
        "GENQUAL_RANK_ENV": json.dumps(placement.env),
        "GENQUAL_CORES": json.dumps(placement.cores),
    }
    if not job.several_hosts and "lo" in {name for _, name in socket.if_nameindex()}:
        fixed["GLOO_SOCKET_IFNAME"] = os.environ.get("GLOO_SOCKET_IFNAME", "lo")
    if job.several_hosts:
        fixed["GENQUAL_HOSTS"] = json.dumps(job.hosts)
    return {**ours, **fixed, **shared, **control}
