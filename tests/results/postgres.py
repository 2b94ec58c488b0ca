"""A real PostgreSQL server for tests: a cluster of its own in a temporary directory, never running as root."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final

INSTALL: Final = "apt-get install -y postgresql, or put its bin directory on PATH"
PACKAGED: Final = Path("/usr/lib/postgresql")  # where Debian puts a folder for each version
PASSWORD: Final = "s3cr3t"

_START_S, _STOP_S = 60.0, 30.0


def binaries() -> Path:
    """Where initdb and postgres are. Raises FileNotFoundError that says how to get them."""
    places = [Path(found).parent for name in ("initdb",) if (found := shutil.which(name))]
    places += sorted(PACKAGED.glob("*/bin"), reverse=True)
    for place in places:
        real = (place / "initdb").resolve().parent
        if (real / "postgres").exists():
            return real
    raise FileNotFoundError(f"no PostgreSQL server here (initdb, postgres): {INSTALL}")


class Server:
    """One cluster. `start` and `stop` may be called again and again; `close` removes it."""

    def __init__(self, *, durable: bool = False) -> None:
        self._durable = durable
        self._bin = binaries()
        self._as: list[str] = []
        self.directory = Path(tempfile.mkdtemp(prefix="genqual-pg-"))
        self.data = self.directory / "data"
        if os.geteuid() == 0:  # the server refuses to run as root
            names = {one.pw_name for one in pwd.getpwall()}
            user = "postgres" if "postgres" in names else "nobody"
            account = pwd.getpwnam(user)
            os.chown(self.directory, account.pw_uid, account.pw_gid)
            # pdeathsig: the server ends with the tests even when those are killed.
            self._as = ["setpriv", f"--reuid={user}", f"--regid={account.pw_gid}", "--clear-groups", "--pdeathsig=INT"]
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        secret = self.directory / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        subprocess.run(
            [
                *self._as,
                str(self._bin / "initdb"),
                *("--pgdata", str(self.data), "--username", "alice", "--auth", "scram-sha-256", "--no-sync"),
                *("--pwfile", str(secret), "--encoding", "UTF8", "--locale", "C"),
            ],
            check=True,
            capture_output=True,
            timeout=120,
            cwd=self.directory,
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0

    def start(self) -> None:
        """Run the server until it takes connections."""
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *self._as,
                    str(self._bin / "postgres"),
                    *("-D", str(self.data), "-p", str(self.port), "-c", "listen_addresses=127.0.0.1"),
                    *("-k", str(self.directory), "-c", "max_connections=80"),
                    # Here the server is killed and never the kernel: what it wrote is kept without waiting for a disk.
                    *(() if self._durable else ("-c", "fsync=off")),
                ],
                stdout=subprocess.DEVNULL,
                stderr=log,
                cwd=self.directory,
            )
        deadline = time.monotonic() + _START_S
        ready = [str(self._bin / "pg_isready"), "-h", "127.0.0.1", "-p", str(self.port), "-q"]
        while subprocess.run(ready, check=False).returncode != 0:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start: {(self.directory / 'log').read_text()[-2000:]}")
            time.sleep(0.05)  # pg_isready has no wait of its own

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT throws everybody out, SIGQUIT as a crash does."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(_STOP_S)
            self._process = None

    def database(self) -> str:
        """The URL of a new, empty database, with its password."""
        import psycopg

        self._databases += 1
        name = f"results_{self._databases}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self.url(name)

    def url(self, database: str) -> str:
        return f"postgresql://alice:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def close(self) -> None:
        """Stop and remove the cluster."""
        try:
            self.stop(signal.SIGQUIT)
        finally:
            if self._process is not None:
                self._process.kill()
            shutil.rmtree(self.directory, ignore_errors=True)
