"""Hosts as network namespaces on one bridge, for tests: links that are cut, slow, lossy or far. Needs root.

They share this machine's processes and files; each has its own network and its own name. Without netem in the kernel,
a link is slow by a token bucket (tbf, htb), lossy by iptables and far by a program that forwards its frames later.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

INSTALL: Final = "apt-get install -y iproute2 iptables openmpi-bin, as root"
PROGRAMS: Final = ("ip", "bridge", "tc", "iptables", "unshare", "mpirun")
_SEARCHED: Final = f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin"
_PREFIX: Final = "gq"
_LEFT_S: Final = 10.0


def missing() -> list[str]:
    """What is not here: programs, root, or a kernel that makes namespaces, bridges and token buckets."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=_SEARCHED) is None]
    if os.geteuid() != 0:
        absent.append("root")
    return absent or [f"the kernel's {what}" for what in _refused()]


def _refused() -> list[str]:
    """Of what the kernel may lack, what it refuses in a namespace made for trying."""
    name = f"{_PREFIX}-{os.getpid()}-try"
    if _tried("ip", "netns", "add", name):
        return ["network namespaces"]
    try:
        wanted = {
            "veth": ("link", "add", "name", "one", "type", "veth", "peer", "name", "two"),
            "bridge": ("link", "add", "name", "three", "type", "bridge"),
        }
        refused = [what for what, words in wanted.items() if _tried("ip", "-n", name, *words)]
        for kind, rest in (("tbf", ("rate", "1gbit", "burst", "64k", "latency", "1ms")), ("htb", ("default", "1"))):
            if not refused and _tried("tc", "-n", name, "qdisc", "replace", "dev", "one", "root", kind, *rest):
                refused.append(kind)
        rule = ("-A", "INPUT", "-m", "statistic", "--mode", "random", "--probability", "0.5", "-j", "DROP")
        if _tried("ip", "netns", "exec", name, "iptables", *rule):
            refused.append("iptables statistic")
        return refused
    finally:
        _tried("ip", "netns", "del", name)


def _tried(*words: str) -> int:
    return subprocess.run(words, env=_env(), capture_output=True, check=False, timeout=30).returncode


def _env() -> dict[str, str]:
    return {**os.environ, "PATH": _SEARCHED}


def run(*words: str) -> str:
    """What a command prints. Raises AssertionError with what it says where it fails."""
    done = subprocess.run(words, env=_env(), capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, f"{shlex.join(words)}: {done.stderr or done.stdout}"
    return done.stdout


class Hosts:
    """`count` hosts that reach each other and this one. `agent` starts programs on them, as ssh would.

    `far_ms` is the time that each frame of host 0 takes longer, each way. With `first`, what runs on the hosts comes
    before all else that uses this machine's cores: each stands for a host that nobody else uses.
    """

    def __init__(self, count: int, folder: Path, *, far_ms: float = 0.0, first: bool = False) -> None:
        self.names = [f"{_PREFIX}-{os.getpid()}-{number}" for number in range(count)]
        self._tag = secrets.token_hex(2)
        self._net = f"198.18.{secrets.randbelow(254) + 1}"  # the range that is kept for benchmarks of networks
        self._folder = folder
        self._far_ms, self._first = far_ms, first
        self._forwarders: list[subprocess.Popen[str]] = []

    @property
    def addresses(self) -> tuple[str, ...]:
        """By host."""
        return tuple(f"{self._net}.{number + 1}" for number in range(len(self.names)))

    @property
    def agent(self) -> Path:
        return self._folder / "agent"

    @property
    def mpirun(self) -> tuple[str, ...]:
        """Arguments by which mpirun starts its daemons with `agent`, and has them talk over this network only."""
        parts = {"plm_rsh_agent": self.agent, "plm_rsh_no_tree_spawn": 1, "oob_tcp_if_include": f"{self._net}.0/24"}
        return tuple(word for name, value in parts.items() for word in ("--mca", name, str(value)))

    def __enter__(self) -> Self:
        _sweep()
        try:
            self._make()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _make(self) -> None:
        bridge = self._bridge
        run("ip", "link", "add", bridge, "type", "bridge")
        run("ip", "address", "add", f"{self._net}.254/24", "dev", bridge)
        run("ip", "link", "set", bridge, "up")
        for number, name in enumerate(self.names):
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
            inner, outer = f"{bridge}i{number}", self._port(number)
            if self._far_ms and number == 0:
                self._forward(inner, outer)
            else:
                run("ip", "link", "add", outer, "type", "veth", "peer", "name", inner)
            run("ip", "link", "set", inner, "netns", name)
            run("ip", "-n", name, "link", "set", inner, "name", "net0")
            run("ip", "-n", name, "address", "add", f"{self.addresses[number]}/24", "dev", "net0")
            run("ip", "-n", name, "link", "set", "net0", "up")
            run("ip", "link", "set", outer, "master", bridge, "up")
        self._write_agent()

    def _forward(self, inner: str, outer: str) -> None:
        # PYTHONPATH as it is: the module is found from the folder of these tests.
        words = [sys.executable, "-m", "tests.cluster.forwarder", inner, outer, str(self._far_ms)]
        root = Path(__file__).resolve().parents[2]
        started = subprocess.Popen(words, cwd=root, stdout=subprocess.PIPE, text=True)
        self._forwarders.append(started)
        assert started.stdout is not None
        assert started.stdout.readline() == "ready\n", "no device of its own for the forwarder"

    @property
    def _bridge(self) -> str:
        return f"{_PREFIX}{self._tag}"

    def _port(self, number: int) -> str:
        return f"{self._bridge}o{number}"

    def _write_agent(self) -> None:
        """As sshd: a program gets no environment of its caller, and the host's own name."""
        lines = ["#!/bin/sh", "host=$1; shift", "case $host in"]
        for number, (name, address) in enumerate(zip(self.names, self.addresses, strict=True)):
            lines.append(f"{address}) space={name}; name=host{number} ;;")
        lines += ['*) echo "no host $host" >&2; exit 255 ;;', "esac"]
        clean = f"env -i PATH={shlex.quote(_SEARCHED)} HOME={shlex.quote(str(self._folder))}"
        lines.append(
            f"exec {clean} {'nice -n -20 ' if self._first else ''}ip netns exec $space unshare --uts sh -c "
            """'hostname "$0"; exec sh -c "$1"' "$name" "$*" """
        )
        self.agent.write_text("\n".join(lines) + "\n")
        self.agent.chmod(0o755)

    def on(self, number: int, *words: str) -> str:
        """What a command prints on host `number`."""
        return run("ip", "netns", "exec", self.names[number], *words)

    def shape(self, number: int, gbit: float, kind: str = "tbf") -> None:
        """Limit what goes into and out of host `number` to `gbit` Gbit/s, by `tbf` or `htb`."""
        port, rate = self._port(number), f"{gbit * 1000:.0f}mbit"
        # The bucket holds one frame of segmentation offload and a bit: a deeper one would let short messages through
        # at the host's own speed.
        for words in (("tc", "-n", self.names[number]), ("tc",)):
            device = "net0" if "-n" in words else port
            at = (*words, "qdisc", "add", "dev", device, "root")
            _tried(*words, "qdisc", "del", "dev", device, "root")  # one kind cannot be replaced by another
            if kind == "tbf":
                run(*at, "tbf", "rate", rate, "burst", "128k", "latency", "50ms")
            else:
                run(*at, "handle", "1:", "htb", "default", "1")
                of = (*words, "class", "replace", "dev", device, "parent", "1:", "classid", "1:1")
                run(*of, "htb", "rate", rate, "ceil", rate, "burst", "128k", "cburst", "128k")

    def lose(self, share: float) -> None:
        """Drop this share of what arrives on each host, at random."""
        rule = ("-A", "INPUT", "-i", "net0", "-m", "statistic", "--mode", "random")
        for number in range(len(self.names)):
            self.on(number, "iptables", *rule, "--probability", str(share), "-j", "DROP")

    def dropped(self, number: int) -> int:
        """Packets that `lose` dropped on host `number` so far."""
        lines = self.on(number, "iptables", "-L", "INPUT", "-v", "-x", "-n").splitlines()
        return sum(int(line.split()[0]) for line in lines if "DROP" in line and "statistic" in line)

    def cut(self, number: int) -> None:
        """Let nothing into or out of host `number`: as a cable pulled out of a switch, of which nobody is told."""
        # A port of no bridge would still hand this machine what is sent to one of its own addresses.
        run("bridge", "link", "set", "dev", self._port(number), "state", "0")

    def part(self, one: int, other: int) -> None:
        """Let nothing through between two hosts that all others still reach."""
        for number, away in ((one, other), (other, one)):
            self.on(number, "iptables", "-A", "INPUT", "-s", self.addresses[away], "-j", "DROP")

    def processes(self) -> dict[int, str]:
        """Every process of every host: its id and its command line."""
        found: dict[int, str] = {}
        for name in self.names:
            for pid in map(int, run("ip", "netns", "pids", name).split()):
                with contextlib.suppress(OSError):
                    found[pid] = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
        return {pid: command for pid, command in found.items() if command}  # a zombie has none

    def wait_until_empty(self, seconds: float) -> dict[int, str]:
        """What is left on any host after `seconds`, or nothing as soon as nothing is."""
        end = time.monotonic() + seconds
        while (left := self.processes()) and time.monotonic() < end:
            time.sleep(0.2)  # the end of a process that is not ours cannot be waited for
        return left

    def close(self) -> None:
        """End what runs on the hosts, and take network and hosts away."""
        for started in self._forwarders:
            started.kill()
            started.wait(_LEFT_S)
            if started.stdout is not None:
                started.stdout.close()
        self._forwarders.clear()
        for name in self.names:
            _remove(name)
        for number in range(len(self.names)):
            _tried("ip", "link", "del", self._port(number))
        _tried("ip", "link", "del", self._bridge)


def _remove(name: str) -> None:
    if not Path("/run/netns", name).exists():
        return
    for pid in map(int, run("ip", "netns", "pids", name).split()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    _tried("ip", "netns", "del", name)


def _sweep() -> None:
    """Remove hosts of test runs that were killed."""
    for path in Path("/run/netns").glob(f"{_PREFIX}-*-*") if Path("/run/netns").exists() else ():
        owner = path.name.split("-")[1]
        if not Path("/proc", owner).exists():
            _remove(path.name)
