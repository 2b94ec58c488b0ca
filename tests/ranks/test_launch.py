"""Command lines and environments of launchers; test_group.py and test_launchers.py run them."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path

import pytest

from genqual.devices.base import Placement
from genqual.errors import BadInput
from genqual.ranks import launchers
from genqual.ranks.launchers import LAUNCHERS, RankJob, exported, launcher, listen_address, rank_environment

LOGS = Path("/logs")

TORCHRUN_LOG = """\
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
genqual.ranks.worker FAILED
Failures:
[1]:
  time      : 2026-11-21_21:36:15
  host      : localhost
  rank      : 0 (local_rank: 0)
  exitcode  : -15 (pid: 10763)  (SIGTERM)
  error_file: <N/A>
  traceback : Signal 15 (SIGTERM) received by PID 10763
Root Cause (first observed failure):
[0]:
  time      : 2026-11-21_21:36:15
  host      : localhost
  rank      : 11 (local_rank: 3)
  exitcode  : 3 (pid: 10764)
  error_file: <N/A>
"""
MPIRUN_LOG = """\
mpirun noticed that process rank 1 with PID 0 on node node-a exited on signal 9 (Killed).
Process name: [[58063,1],2]
  Exit code:    3
"""
SRUN_LOG = """\
srun: error: node-a: task 1: Killed
srun: error: node-b: task 2: Exited with exit code 3
srun: error: node-b: task 3: Segmentation fault (core dumped)
srun: error: node-c: tasks 4-5,7: Terminated
srun: error: node-d: tasks 10-11: Exited with exit code 1
"""


def test_torchrun_takes_a_port_that_nobody_can_take_away() -> None:
    command = LAUNCHERS["torchrun"].command(RankJob(2, LOGS, arguments=("--tee=3",)))
    assert command == [
        *(
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nnodes=1",
            "--nproc-per-node=2",
            "--max-restarts=0",
            "--monitor-interval=0.1",
        ),
        *("--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--rdzv-conf=is_host=1", "--local-addr=127.0.0.1"),
        *("--log-dir=/logs/torchrun", "--tee=3", "--module", "genqual.ranks.worker"),
    ]


def test_deepspeed_gets_a_free_port_and_no_local_rank_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launchers, "free_port", lambda: 4321)
    command = LAUNCHERS["deepspeed"].command(RankJob(2, LOGS))
    assert command == [
        *(sys.executable, "-m", "deepspeed.launcher.runner", "--num_gpus=2", "--hostfile=/dev/null"),
        *("--master_addr=127.0.0.1", "--master_port=4321", "--no_local_rank", "--module", "genqual.ranks.worker"),
    ]


def test_mpirun_exports_names_never_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    job = RankJob(4, LOGS, hosts=("a", "b"), exports=("OMP_NUM_THREADS", "GENQUAL_AUTHKEY"))
    assert LAUNCHERS["mpirun"].command(job) == [
        *("mpirun", "-np", "4", "--host", "a:2,b:2", "--bind-to", "none", "--map-by", ":OVERSUBSCRIBE"),
        *("--mca", "oob_tcp_keepalive_time", "3", "--mca", "oob_tcp_keepalive_intvl", "3"),
        *("--mca", "oob_tcp_keepalive_probes", "3"),
        *("-x", "GENQUAL_AUTHKEY", "-x", "OMP_NUM_THREADS", sys.executable, "-u", "-m", "genqual.ranks.worker"),
    ]
    assert LAUNCHERS["mpirun"].environment(job)["MASTER_ADDR"] == "a"
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert "--allow-run-as-root" in LAUNCHERS["mpirun"].command(RankJob(1, LOGS))


def test_other_hosts_get_what_is_ours_and_what_ranks_need_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NCCL_DEBUG", "PYTHONPATH", "EDITOR"):
        monkeypatch.setenv(name, "mine")
    env = rank_environment(Placement(env=()), RankJob(2, LOGS, hosts=("a", "b")), {"GENQUAL_CONTROL": "here"})
    assert {"NCCL_DEBUG", "PYTHONPATH", "GENQUAL_CONTROL", "LOCAL_SIZE"} <= set(exported(env))
    assert "EDITOR" not in exported(env)
    assert env["GENQUAL_HOSTS"] == '["a", "b"]'
    assert "GENQUAL_HOSTS" not in rank_environment(Placement(env=()), RankJob(2, LOGS), {})


def test_srun_spreads_evenly_and_ends_all_with_the_first() -> None:
    assert LAUNCHERS["srun"].command(RankJob(4, LOGS, hosts=("a", "b"), arguments=("--partition=x",))) == [
        *("srun", "--ntasks=4", "--ntasks-per-node=2", "--nodes=2", "--nodelist=a,b", "--export=ALL"),
        *("--overlap", "--kill-on-bad-exit=1", "--cpu-bind=none", "--unbuffered", "--partition=x"),
        *(sys.executable, "-u", "-m", "genqual.ranks.worker"),
    ]
    assert LAUNCHERS["srun"].environment(RankJob(1, LOGS))["MASTER_ADDR"] == "127.0.0.1"


@pytest.mark.parametrize(
    ("name", "log", "exits"),
    [
        ("torchrun", TORCHRUN_LOG, {0: -15, 11: 3}),
        ("mpirun", MPIRUN_LOG, {1: -9, 2: 3}),
        ("srun", SRUN_LOG, {1: -9, 2: 3, 3: -11, 4: -15, 5: -15, 7: -15, 10: 1, 11: 1}),
        ("deepspeed", "exits with return code = -9", {}),
        *((name, "", {}) for name in LAUNCHERS),
    ],
)
def test_exit_codes_are_read_by_rank(name: str, log: str, exits: dict[int, int]) -> None:
    assert LAUNCHERS[name].exits(log) == exits


@pytest.mark.parametrize("name", ["torchrun", "deepspeed"])
def test_launchers_of_one_host_say_so(name: str) -> None:
    with pytest.raises(BadInput, match=r"a, b.*mpirun or srun"):
        LAUNCHERS[name].command(RankJob(2, LOGS, hosts=("a", "b")))


def test_unknown_launchers_uneven_jobs_and_missing_packages_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="--launcher nohup: genqual knows torchrun, deepspeed, mpirun, srun"):
        launcher("nohup")
    with pytest.raises(BadInput, match="3 ranks on 2 hosts"):
        RankJob(3, LOGS, hosts=("a", "b"))
    assert launcher("torchrun").name == "torchrun"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"torchrun needs torch, .* -m pip install torch$"):
        launcher("torchrun")


def test_a_launcher_that_is_a_program_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BadInput, match=r"--launcher srun needs the program srun, which is not on PATH"):
        launcher("srun")
    (tmp_path / "srun").write_text("#!/bin/sh\n")
    (tmp_path / "srun").chmod(0o755)
    assert launcher("srun").name == "srun"
    assert launcher("none").name == "none"


def test_the_environment_is_cleaned_and_shared_parts_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "OMPI_COMM_WORLD_RANK", "GENQUAL_GROUP"):
        monkeypatch.setenv(name, "stale")
    monkeypatch.setenv("GENQUAL_CACHE", "kept")
    placement = Placement(env=({"OMP_NUM_THREADS": "3", "CARD": "0"}, {"OMP_NUM_THREADS": "3", "CARD": "1"}))
    env = rank_environment(placement, RankJob(2, LOGS), {"GENQUAL_CONTROL": "here"})
    assert not {"RANK", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "OMPI_COMM_WORLD_RANK", "GENQUAL_GROUP", "CARD"} & set(
        env
    )
    assert env["GENQUAL_CACHE"] == "kept"
    assert env["GENQUAL_CONTROL"] == "here"
    assert env["OMP_NUM_THREADS"] == "3"  # the same for all, so also for the launcher
    assert env["LOCAL_SIZE"] == "2"
    assert json.loads(env["GENQUAL_RANK_ENV"])[1]["CARD"] == "1"
    assert env["PYTHONSAFEPATH"] == "1"
    assert env["HOME" if "HOME" in env else "PATH"]


def test_gloo_stays_on_the_loopback_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    assert rank_environment(Placement(env=()), RankJob(1, LOGS), {})["GLOO_SOCKET_IFNAME"] == "lo"
    assert "GLOO_SOCKET_IFNAME" not in rank_environment(Placement(env=()), RankJob(2, LOGS, hosts=("a", "b")), {})
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
    assert rank_environment(Placement(env=()), RankJob(1, LOGS), {})["GLOO_SOCKET_IFNAME"] == "eth7"


def test_one_host_listens_on_loopback_only() -> None:
    assert listen_address(RankJob(2, LOGS)) == "127.0.0.1"
    assert listen_address(RankJob(2, LOGS, hosts=("127.0.0.1", "127.0.0.2"))) in {"127.0.0.1", "127.0.0.2"}


def test_a_free_port_can_be_bound() -> None:
    with socket.create_server(("127.0.0.1", launchers.free_port())):
        pass
