"""One million synthetic records in PostgreSQL and as Parquet: load, compare and report. Run by hand.

    python -m tests.benchmarks.million_records [--records N] [--json FILE]

The records are 2,000 configurations (10 classes of hardware x 4 engines x 50 workloads), measured again in run after
run, each under its true id: what is read is verified. The server is one of this benchmark's own, with its defaults.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from genqual.analysis.compare import compare
from genqual.cli import COMMANDS
from genqual.digest import canonical
from genqual.records.canonical import parse
from genqual.records.fields import Provenance
from genqual.storage import parquet
from genqual.storage.sinks.base import columns_of
from genqual.storage.sinks.sql import SqlSink
from genqual.storage.sinks.table import RECORDS
from genqual.storage.sinks.upgrade import upgrade
from genqual.storage.sources import load
from tests.results.make import record, timing
from tests.results.postgres import Server

CLASSES = [f"class-{number}" for number in range(10)]
ENGINES = ("transformers", "transformers-compiled", "deepspeed-inference", "vllm")
WORKLOADS = list(itertools.product((1, 2, 4, 8, 16, 32, 64, 128, 256, 512), (32, 128, 512, 1024, 2048)))
RUN, CREATED, VALUE, SAMPLES, ID = "@run@", "2000-01-01T00:00:00.000000Z", 0.123456789, (0.11, 0.22, 0.33), "@id@"


class Template:
    """One configuration: its row of the index, and its bytes with places for what changes from run to run."""

    def __init__(self, class_id: str, engine: str, batch: int, length: int) -> None:
        made = record(
            run=RUN,
            created=CREATED,
            class_id=class_id,
            engine=engine,
            batch=batch,
            input_length=length,
            metrics=(timing(samples=SAMPLES, value=VALUE),),
        ).model_copy(update={"provenance": Provenance(kind="simulated")})
        self.row = columns_of(made)
        self.body = made.body().decode()
        self.whole = canonical({**_object(made.body()), "id": ID}).decode()

    def at(self, run: str, created: str, samples: Sequence[float]) -> dict[str, Any]:
        """The row of one record, its id the hash of its bytes."""
        value = sorted(samples)[1]
        identifier = hashlib.sha256(self._filled(self.body, run, created, samples, value).encode()).hexdigest()
        whole = self._filled(self.whole, run, created, samples, value).replace(ID, identifier)
        return {**self.row, "id": identifier, "run": run, "created": created, "body": whole}

    @staticmethod
    def _filled(text: str, run: str, created: str, samples: Sequence[float], value: float) -> str:
        listed = "[" + ",".join(map(repr, samples)) + "]"
        text = text.replace(RUN, run).replace(CREATED, created).replace(repr(VALUE), repr(value))
        return text.replace("[0.11,0.22,0.33]", listed)


def rows(count: int) -> Iterator[dict[str, Any]]:
    """`count` rows, the newest run first."""
    templates = [Template(name, engine, *one) for name in CLASSES for engine in ENGINES for one in WORKLOADS]
    chance = random.Random(0)
    sweeps = -(-count // len(templates))
    for number in range(count):
        sweep = sweeps - number // len(templates)
        day, minute = divmod(sweep, 1440)
        created = f"2026-{1 + day // 28:02}-{1 + day % 28:02}T{minute // 60:02}:{minute % 60:02}:00.000000Z"
        samples = [round(chance.uniform(0.01, 0.02), 9) for _ in range(3)]
        yield templates[number % len(templates)].at(f"run-{sweep:06}", created, samples)


def copy(url: str, found: Iterator[dict[str, Any]]) -> int:
    """Load rows by COPY, as a database is restored from its records; how many."""
    import psycopg

    names = [column.name for column in RECORDS.columns]
    listed = ", ".join(f'"{name}"' for name in names)
    count = 0
    with psycopg.connect(url) as connection:
        with connection.cursor().copy(f"COPY records ({listed}) FROM STDIN".encode()) as stream:
            for row in found:
                stream.write_row([row[name] for name in names])
                count += 1
        connection.commit()
        connection.autocommit = True
        connection.execute("VACUUM ANALYZE records")
    return count


def reading(source: str) -> dict[str, float]:
    """Wall seconds of reading what a comparison of two classes needs, without starting Python."""
    start = time.perf_counter()
    ours, theirs = (load(f"{source}#class={name}", newest=True) for name in CLASSES[:2])
    if not compare(ours, theirs).rows:
        raise SystemExit(f"{source}: nothing to compare")
    return {"s": time.perf_counter() - start, "mib": own_mib()}


def command(words: Sequence[str]) -> dict[str, float]:
    """Wall seconds and peak MiB of `genqual words`, a process of its own."""
    start = time.perf_counter()
    program = (
        "import sys\n"
        "from genqual.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "finally:\n"
        "    status = open('/proc/self/status').read()\n"
        "    print(status.partition('VmHWM:')[2].split()[0], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(
            f"genqual {words[0]}: exit code {done.returncode}\n{done.stdout[-1000:]}\n{done.stderr[-2000:]}"
        )
    return {"s": time.perf_counter() - start, "mib": int(done.stderr.split()[-1]) / 1024}


def measure(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Every step, in order."""
    found: dict[str, Any] = {"records": options.records}
    server = Server(durable=True)
    try:
        server.start()
        url = server.database()
        upgrade(url)
        start = time.perf_counter()
        copy(url, rows(options.records))
        found["PostgreSQL: load (COPY, vacuum)"] = {"s": time.perf_counter() - start, "mib": own_mib()}
        start = time.perf_counter()
        fresh = [record(run="push", attempt=attempt) for attempt in range(1, 2001)]
        SqlSink.open(url).send(fresh)
        found["PostgreSQL: send 2,000 more"] = {"s": time.perf_counter() - start, "mib": own_mib()}
        file = scratch / "records.parquet"
        start = time.perf_counter()
        parquet.write_rows(file, rows(options.records))
        found["Parquet: write"] = {"s": time.perf_counter() - start, "mib": own_mib(), "bytes": file.stat().st_size}
        for name, source in (("PostgreSQL", url), ("Parquet", str(file))):
            pair = [f"{source}#class={one}" for one in CLASSES[:2]]
            found[f"{name}: read and compare two classes, in a process that runs"] = reading(source)
            if options.no_commands:
                continue
            found[f"{name}: genqual compare"] = command(["compare", "--markdown", *pair])
            if "report" in COMMANDS:
                page = str(scratch / f"{name}.html")
                found[f"{name}: genqual report"] = command(["report", source, "-o", page])
                found[f"{name}: genqual report"]["bytes"] = Path(page).stat().st_size
        for name, source in (("PostgreSQL", url), ("Parquet", str(file))):
            start = time.perf_counter()
            count = len(load(source, newest=True))
            found[f"{name}: read the newest of all, {count:,} records"] = {
                "s": time.perf_counter() - start,
                "mib": own_mib(),
            }
        found["start of the command alone"] = command(["compare", "--help"])
    finally:
        server.close()
    return found


def own_mib() -> float:
    """Peak memory of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _object(data: bytes) -> dict[str, Any]:
    found = parse(data)
    if not isinstance(found, dict):
        raise TypeError("a record is an object")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Make, load, compare, report; print a line a step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--no-commands", action="store_true", help="read and compare in this process only")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="genqual-million-") as scratch:
        found = measure(options, Path(scratch))
    print("| step | s | peak MiB | bytes |\n|---|---|---|---|")
    for name, one in found.items():
        if isinstance(one, dict):
            print(f"| {name} | {one['s']:.2f} | {one['mib']:.0f} | {one.get('bytes', '')} |")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
