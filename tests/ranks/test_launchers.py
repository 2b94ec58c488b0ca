"""The other launchers, really run where they are installed: they start, answer, and lose a rank by its true cause."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from genqual.engines.base import TokenBatch
from genqual.ranks import processes
from genqual.ranks.client import Generator
from genqual.ranks.errors import GroupLost
from genqual.ranks.pool import Pool
from tests import services
from tests.ranks import stand_in
from tests.ranks.conftest import PlanOf

pytestmark = pytest.mark.heavy


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        pytest.param("deepspeed", "rank 1 ended without a reported failure", id="deepspeed"),
        pytest.param("mpirun", "rank 1 exited with code 3", id="mpirun"),
    ],
)
def test_a_launcher_starts_ranks_and_loses_them_by_the_true_cause(
    pool: Pool, plan_of: PlanOf, name: str, cause: str, logs: Path
) -> None:
    if name == "mpirun" and shutil.which(name) is None:
        services.absent("Open MPI (mpirun)", "apt-get install -y openmpi-bin")
    batch = TokenBatch.of([[3, 1, 4], [1, 5]])
    generator = Generator(pool, plan_of("GlooStandIn", launcher=name))
    assert np.array_equal(generator.generate(batch, 4).tokens, stand_in.expected_tokens(batch, 4))
    assert [one["own"] for one in generator.inspect()] == ["r0", "r1"]
    mark = generator.group.mark
    with (
        pytest.raises(GroupLost) as caught,
        generator.fault("tests.ranks.stand_in:leave", on=1, code=3),
    ):
        generator.generate(batch, 4)
    assert cause in caught.value.headline, "not rank 0's `Connection closed by peer`"
    assert processes.members(mark) == []
    mark = generator.group.mark
    pool.close_all()
    assert processes.members(mark) == []
