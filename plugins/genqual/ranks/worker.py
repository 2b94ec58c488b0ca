"""What a launcher starts: one rank, prepared before anything heavy is imported, then served. torch is allowed here."""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import importlib
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from genqual.ranks.network import facing
from genqual.ranks.rank_context import RankContext

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from genqual.cases import Json

# How launchers name the same four numbers; the first that is set wins.
_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "RANK": ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID"),
    "WORLD_SIZE": ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_NTASKS"),
    "LOCAL_RANK": ("LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID"),
    "LOCAL_WORLD_SIZE": (
        *("LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "SLURM_NTASKS_PER_NODE"),
        "LOCAL_SIZE",
    ),
}


def prepare() -> RankContext:
    """Name the rank, redirect its output, bind its cores, set its environment, arm its stack dumps.

    Before NumPy or torch are imported, because both read affinity and thread counts once. A rank that was begun early
    stands on the cores it was lent until `settle`. Raises KeyError when started by hand, OSError when a core is not
    ours to use.
    """
    numbers = {name: _first(name, names) for name, names in _NAMES.items()}
    os.environ.update({name: str(value) for name, value in numbers.items()})
    os.environ["LOCAL_SIZE"] = str(numbers["LOCAL_WORLD_SIZE"])
    rank, local_rank = numbers["RANK"], numbers["LOCAL_RANK"]
    logs = Path(os.environ["GENQUAL_LOGS"])
    logs.mkdir(parents=True, exist_ok=True)  # on another host the folder may not exist
    log = os.open(logs / f"rank{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    stacks = (logs / f"rank{rank}.stack").open("w")
    _arm(stacks)
    envs: list[dict[str, str]] = json.loads(os.environ["GENQUAL_RANK_ENV"])
    if envs:
        os.environ.update(envs[local_rank])
    if "GLOO_SOCKET_IFNAME" not in os.environ and (name := facing(json.loads(os.environ.get("GENQUAL_HOSTS", "[]")))):
        os.environ["GLOO_SOCKET_IFNAME"] = name
    bound: list[list[int]] = json.loads(os.environ["GENQUAL_CORES"])
    cores = tuple(bound[local_rank]) if bound else ()
    ahead = json.loads(os.environ.pop("GENQUAL_AHEAD", "null"))
    if stand := ahead["cores"] if ahead else cores:
        os.sched_setaffinity(0, stand)
    host, _, port = os.environ["GENQUAL_CONTROL"].rpartition(":")
    key = bytes.fromhex(os.environ.pop("GENQUAL_AUTHKEY"))  # popped: compilers that the rank starts need no key
    return RankContext(
        *(rank, numbers["WORLD_SIZE"], local_rank, numbers["LOCAL_WORLD_SIZE"], cores, host, int(port), key, stacks),
        ahead["module"] if ahead else None,
    )


def settle(place: RankContext) -> None:
    """Import what a group that was begun early imports, then move every thread to the cores that are the rank's own.

    What cannot be imported is told when the engine is loaded.
    """
    if place.ahead is None:
        return
    with contextlib.suppress(Exception):
        importlib.import_module(place.ahead)
    for thread in Path("/proc/self/task").iterdir() if place.cores else ():
        with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
            os.sched_setaffinity(int(thread.name), place.cores)


def _first(name: str, names: tuple[str, ...]) -> int:
    for one in names:
        if one in os.environ:
            return int(os.environ[one])
    raise KeyError(f"{name}: none of {', '.join(names)} is set; a rank is started by a launcher, never by hand")


def _arm(stacks: IO[str]) -> None:
    """Dump every thread's stack on a crash, on SIGUSR1, and before SIGTERM or SIGIO end the rank.

    faulthandler's handlers are C code: they answer even while a kernel holds the GIL.
    """
    faulthandler.enable(stacks)
    faulthandler.register(signal.SIGUSR1, stacks, all_threads=True, chain=False)
    for deadly in (signal.SIGTERM, signal.SIGIO):
        signal.signal(deadly, signal.SIG_DFL)
        faulthandler.register(deadly, stacks, all_threads=True, chain=True)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for pytest, which then ends us


def die_with_parent(side: Connection) -> None:
    """Let the kernel end this rank, and what it started, when pytest's end of `side` closes, kill -9 included.

    Nothing is ever sent on `side`; its end raises SIGIO, whose default action is to terminate. No thread is needed, so
    it works while C code holds the GIL.
    """
    owner = -os.getpgrp() if os.getpgrp() == os.getpid() else os.getpid()
    fcntl.fcntl(side.fileno(), fcntl.F_SETOWN, owner)
    fcntl.fcntl(side.fileno(), fcntl.F_SETFL, fcntl.fcntl(side.fileno(), fcntl.F_GETFL) | os.O_ASYNC)
    if side.poll():  # it closed before the kernel was told
        raise SystemExit("pytest is gone")


def detach(side: Connection) -> None:
    """Undo `tether`, for an orderly exit."""
    fcntl.fcntl(side.fileno(), fcntl.F_SETFL, fcntl.fcntl(side.fileno(), fcntl.F_GETFL) & ~os.O_ASYNC)
    side.close()


def leave() -> None:
    """Close torch.distributed, if an engine opened it: NCCL and HCCL may hang at exit otherwise."""
    if "torch.distributed" in sys.modules:
        import torch.distributed as dist

        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()


def main() -> None:
    """Serve requests until told to stop."""
    place = prepare()
    settle(place)
    # Only now, with cores and threads settled, may NumPy be imported.
    from genqual.ranks.protocol import PROTOCOL, Message, connect, send
    from genqual.ranks.server import RankServer

    who: dict[str, Json] = {
        **{"protocol": PROTOCOL, "rank": place.rank, "world_size": place.world_size},
        **{"pid": os.getpid(), "host": socket.gethostname()},
    }

    def meet(role: str) -> Connection:
        connection = connect(place.host, place.port, place.key)
        send(connection, Message({**who, "role": role}))  # at once: the door serves one caller at a time
        return connection

    control, side = meet("control"), meet("side")
    die_with_parent(side)
    RankServer(place, control).run()
    leave()
    detach(side)  # last: until here a rank that hangs on its way out still ends with pytest


if __name__ == "__main__":
    main()
