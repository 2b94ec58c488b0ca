"""How surely a slow link is named: N runs with one of four links at a part of the others' rate, and N clean ones.

    python -m tests.benchmarks.slow_link --runs 20 --share 0.9

Four hosts are network namespaces on one bridge, all links shaped to `--gbit` Gbit/s, by a token bucket (tbf) and by a
class (htb) in turns; the slow host goes round. What runs on the
hosts comes before all else on this machine. As root, with iproute2, iptables and Open MPI. Exit 1 when a slow link
was not named, another was, or a clean run named one.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from genqual.health.link_check import ROUNDS, check_links, link_plan
from genqual.health.links import Links
from genqual.ranks.client import Generator
from genqual.ranks.pool import Pool
from tests.cluster.hosts import INSTALL, Hosts, missing

HOSTS = 4


def main(arguments: list[str]) -> int:
    """Print one line a run, then what was named of how many."""
    parser = argparse.ArgumentParser("python -m tests.benchmarks.slow_link", description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--share", type=float, default=0.9, help="of the slow link's rate to the others'")
    parser.add_argument("--gbit", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args(arguments)
    if absent := missing():
        sys.exit(f"missing: {', '.join(absent)}; {INSTALL}")
    right = clean = 0
    with tempfile.TemporaryDirectory() as folder, Hosts(HOSTS, Path(folder), first=True) as hosts:
        pool = Pool(1)
        try:
            generator = Generator(pool, link_plan(hosts.addresses, Path(folder), "mpirun", hosts.mpirun))
            for number in range(options.runs):
                kind, slow = ("tbf", "htb")[number % 2], (number // 2) % HOSTS
                for share in (options.share, 1.0):
                    for host in range(HOSTS):
                        hosts.shape(host, options.gbit * (share if host == slow else 1.0), kind)
                    report = check_links(generator, options.rounds, seed=2 * number + 1)
                    if report.wrong or report.links is None:
                        sys.exit(f"wrong messages: {report.wrong}")
                    named = tell(report.links, f"{number:2} {kind} {hosts.addresses[slow]} at {share:g}")
                    right += share < 1.0 and named == [hosts.addresses[slow]]
                    clean += share == 1.0 and named == []
        finally:
            pool.close_all()
    print(f"slow link named in {right} of {options.runs}; nobody named in {clean} of {options.runs} clean runs")
    return int((right, clean) != (options.runs, options.runs))


def tell(links: Links, what: str) -> list[str]:
    """Print the interval of each host; who is named."""
    said = (f"{one.entity} {one.slower:+.1%} ({one.low:+.1%} to {one.high:+.1%})" for one in links.hosts)
    print(what, *said, "; named:", ", ".join(links.named) or "nobody", flush=True)
    return list(links.named)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main(sys.argv[1:]))
