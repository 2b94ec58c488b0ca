"""A group of stand-in ranks whose first rank takes more memory than its control group has. Run by test_oom_kill."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from genqual.engines.base import TokenBatch
from genqual.errors import OutOfMemory
from genqual.ranks.client import Generator
from genqual.ranks.errors import GroupLost
from genqual.ranks.leases import Leases
from genqual.ranks.pool import Pool


def take(engine: Any, rank: int, *, mib: int) -> Callable[[], None]:
    """A fault: the next step of rank 0 wants `mib` more, and uses them."""
    plain = engine.generate

    def generate(*args: Any) -> Any:
        engine.held = [np.ones(1 << 17) for _ in range(mib)]
        return plain(*args)

    if rank == 0:
        engine.generate = generate
    return lambda: None


def main() -> None:
    """Generate, run out of memory, generate again; what was raised, as JSON."""
    from tests.ranks.conftest import stand_in_plan

    logs = Path(sys.argv[1])
    pool = Pool(1, leases=Leases(logs / "leases"))
    generator = Generator(pool, stand_in_plan(logs, ranks=int(sys.argv[2])))
    batch = TokenBatch.of([[3, 4]])
    before = generator.generate(batch, 2).tokens.tolist()
    said: dict[str, Any] = {}
    try:
        with generator.fault("tests.ranks.oom_kill:take", mib=2000):
            generator.generate(batch, 2)
    except GroupLost as error:
        said = {"lost": str(error), "oom": isinstance(error, OutOfMemory), "rank": error.root and error.root.rank}
    said["again"] = generator.generate(batch, 2).tokens.tolist() == before
    pool.close_all()
    print(json.dumps(said))


if __name__ == "__main__":
    main()
