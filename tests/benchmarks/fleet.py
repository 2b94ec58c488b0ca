"""What a fleet of many nodes asks of one database and one command: uploads side by side, ranking, and the vote.

    python -m tests.benchmarks.fleet --nodes 10000

Synthetic records, four a node, in a PostgreSQL server of the benchmark's own, sent by as many processes at once as
--senders says, each with a connection of its own, as the jobs of an array are; then `genqual compare --by node` on all
of them, and `genqual quorum` on one document of `genqual node` for each node. One node of the fleet is 8 % slower and
one has another fingerprint: both must be named, and nobody else. Prints a line a step.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from genqual.health.finding import Finding, Fingerprint, NodeVerdict, Outcome, verdict_of
from genqual.records.record import Record
from genqual.storage.sinks.sql import SqlSink
from genqual.storage.sinks.upgrade import upgrade
from tests.results.make import record, timing
from tests.results.postgres import Server

LENGTHS: Final = (32, 128, 512, 1024)
SLOW, WRONG = 17, 23  # numbers of the nodes that are to be named
PIECE: Final = 500  # nodes of one sender's turn
PROGRAM: Final = """
import sys
from genqual.cli import main
try:
    main(sys.argv[1:])
finally:
    print(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0], file=sys.stderr)
"""


def main(arguments: Sequence[str]) -> int:
    """Send, rank, vote; exit 1 where somebody else is named, or one of the two is not."""
    parser = argparse.ArgumentParser("python -m tests.benchmarks.fleet", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--nodes", type=int, default=10_000)
    parser.add_argument("--senders", type=int, default=16)
    parser.add_argument("--document", type=Path, help="a document of `genqual node` to copy; default: a small one")
    options = parser.parse_args(arguments)
    server, right = Server(durable=True), True
    try:
        server.start()
        url = server.database()
        upgrade(url)
        starts = range(0, options.nodes, PIECE)
        begun = time.perf_counter()
        with ProcessPoolExecutor(options.senders) as senders:
            seconds = list(senders.map(sent, [url] * len(starts), starts, [options.nodes] * len(starts)))
        whole, many = time.perf_counter() - begun, options.nodes * len(LENGTHS)
        print(f"sent {many:,} records by {options.senders} at once: {whole:.1f} s, {many / whole:,.0f} a second")
        print(f"  one piece of {PIECE * len(LENGTHS):,}, connecting included: {max(seconds):.1f} s at most")
        with tempfile.TemporaryDirectory() as scratch:
            right &= ranked(url)
            right &= voted(options.nodes, options.document, Path(scratch))
    finally:
        server.close()
    return int(not right)


def name_of(number: int) -> str:
    return f"node-{number:05}"


def sent(url: str, start: int, nodes: int) -> float:
    """Send the records of a piece of the fleet; wall seconds of sending, without making them."""
    made = [one for number in range(start, min(nodes, start + PIECE)) for one in records(number)]
    begun = time.perf_counter()
    SqlSink.open(url).send(made)
    return time.perf_counter() - begun


def records(number: int) -> list[Record]:
    """The measurements of one node: 10 ms a token, give or take half a per cent."""
    chance, made = random.Random(number), []
    for length in LENGTHS:
        middle = 0.010 * chance.gauss(1.0, 0.005) * (1.08 if number == SLOW else 1.0)
        samples = tuple(middle * (1.0 + 0.002 * step) for step in (-1, 0, 1))
        one = record(input_length=length, run=f"run-{number}", metrics=(timing(samples=samples, value=middle),))
        made.append(one.model_copy(update={"system": one.system.model_copy(update={"host": name_of(number)})}))
    return made


def called(words: Sequence[str]) -> tuple[float, float, str]:
    """Wall seconds and peak MiB of `genqual words`, a process of its own, and what it printed."""
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        sys.exit(f"genqual {words[0]}: exit status {done.returncode}\n{done.stderr[-2000:]}")
    return time.perf_counter() - begun, int(done.stderr.split()[-1]) / 1024, done.stdout


def ranked(url: str) -> bool:
    """Whether the slow node, and no other, is an outlier by `genqual compare --by node`."""
    seconds, mib, text = called(["compare", url, "--by", "node", "--json"])
    odd = [one["name"] for fleet in json.loads(text) for one in fleet["nodes"] if one["outlier"]]
    print(f"genqual compare --by node: {seconds:.1f} s, {mib:.0f} MiB; named {odd}")
    return odd == [name_of(SLOW)]


def voted(nodes: int, document: Path | None, scratch: Path) -> bool:
    """Whether the node with another fingerprint, and no other, is named by `genqual quorum`."""
    template = None if document is None else NodeVerdict.model_validate_json(document.read_bytes())
    size = 0
    for number in range(nodes):
        text = of_node(number, template).model_dump_json(indent=2)
        size = max(size, len(text))
        (scratch / f"{name_of(number)}.json").write_text(text)
    seconds, mib, text = called(["quorum", *map(str, sorted(scratch.glob("node-*.json")))])
    odd = [name for ballot in json.loads(text)["ballots"] for name in ballot["odd"]]
    print(f"genqual quorum, {nodes:,} documents of {size / 1024:.0f} KiB: {seconds:.1f} s, {mib:.0f} MiB; "
          f"named {odd}")  # fmt: skip
    return odd == [name_of(WRONG)]


def of_node(number: int, template: NodeVerdict | None) -> NodeVerdict:
    """The document of one node: that of `template` under its name, with the fleet's fingerprint."""
    mark = Fingerprint(of="llama-tiny", sha256=("b" if number == WRONG else "a") * 64)
    voted_on = Finding(check="quorum", entity="cores", outcome=Outcome.OK, signal=0.0, fingerprint=mark)
    rest = () if template is None else tuple(one for one in template.findings if one.check != "quorum")
    return verdict_of((*rest, voted_on), required=[], node=name_of(number), hardware_class="class", level="2",
                      began=datetime(2026, 1, 1, tzinfo=UTC))  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
