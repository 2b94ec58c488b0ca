"""What ranks say of themselves, as records keep it: the same whatever tests ran before. No torch, no pytest hook."""

from __future__ import annotations

from genqual.cases import Case, Json
from genqual.ranks.client import Generator
from genqual.ranks.pool import Pool
from genqual.records.fields import GROWING, OF_A_REQUEST


class Inspections:
    """What rank 0 of each case says really runs: kernels, shards, settings."""

    def __init__(self) -> None:
        self._kept: dict[Case, dict[str, Json]] = {}

    def of(self, generator: Generator) -> dict[str, Json]:
        """For a verdict: asked once a case, of ranks that have computed.

        It is told without counts and without what the last request was: with them two records of one engine would
        differ by the order of the tests.
        """
        if generator.case not in self._kept:
            found = generator.inspect_used()[0]
            passing = GROWING | OF_A_REQUEST
            self._kept[generator.case] = {name: value for name, value in found.items() if name not in passing}
        return self._kept[generator.case]


def ran(generator: Generator) -> dict[str, Json]:
    """For a measurement that has just ended: what ran in it, without what the ranks count since loading."""
    return {name: value for name, value in generator.inspect()[0].items() if name not in GROWING}


def ran_if_alive(pool: Pool, generator: Generator) -> dict[str, Json]:
    """As `ran`, and nothing where the ranks have ended or never loaded: none is started to be asked."""
    return ran(generator) if pool.live(generator.plan) is not None else {}
