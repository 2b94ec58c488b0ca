"""`--launcher srun` within an allocation of a real Slurm: ranks start, answer, and are lost by their true cause."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

from genqual.cases import Json
from genqual.engines.base import TokenBatch
from genqual.ranks import processes
from genqual.ranks.client import Generator
from genqual.ranks.errors import GroupLost
from genqual.ranks.leases import Leases
from genqual.ranks.pool import Pool
from tests.cluster.conftest import Start
from tests.here import CPU
from tests.ranks import stand_in
from tests.ranks.conftest import ROOT, stand_in_plan

pytestmark = [
    pytest.mark.heavy,  # a run of the suite, with two groups
    pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core has no room for two ranks"),
]


def test_one_rank_and_two_of_tensor_parallelism_are_judged(start: Start) -> None:
    """Both groups are kept at once: a step of Slurm that held its cores would keep the second from starting."""
    slurm = start()
    words = ["-m", "pytest", "--pyargs", "genqual.suites", "-m", CPU, "--engine", "transformers,transformers-tp"]
    words += ["--ranks", "1,2", "--model", "llama-tiny", "--dtype", "fp32", "-k", "greedy", "--launcher", "srun"]
    words += ["--no-upload", "-rA", "-p", "no:cacheprovider"]
    job = slurm.submit(shlex.join([sys.executable, *words]), "--exclusive")
    slurm.wait_for_job(job, "COMPLETED", "FAILED", seconds=600)
    said = (slurm.folder / "out" / job).read_text()
    assert slurm.job(job)[0][0] == "COMPLETED", said
    for case in ("transformers-llama-tiny", "transformers-tp-tp2-llama-tiny"):
        assert f"PASSED conformance/test_greedy.py::test_logits_match_the_oracle[{CPU}-{case}-fp32]" in said, said
    assert len(list((slurm.folder / ".genqual" / "logs").glob("*/*/launcher.log"))) == 2, "started by a launcher"


@pytest.mark.parametrize(
    ("fault", "params", "cause"),
    [("leave", {"code": 3}, "rank 1 exited with code 3"), ("kill", {}, "rank 1 was killed by SIGKILL")],
    ids=["exit", "kill"],
)
def test_srun_starts_ranks_and_loses_them_by_the_true_cause(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, params: dict[str, Json], cause: str
) -> None:
    slurm = start()
    job = slurm.submit("sleep 600", "--exclusive")
    slurm.wait_for_job(job, "RUNNING")
    for name, value in (("SLURM_CONF", str(slurm.conf)), ("SLURM_JOB_ID", job)):
        monkeypatch.setenv(name, value)  # as in a shell within the allocation
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    pool = Pool(1, leases=Leases(tmp_path / "leases"))
    try:
        batch = TokenBatch.of([[3, 1, 4], [1, 5]])
        generator = Generator(pool, stand_in_plan(tmp_path / "logs", "GlooStandIn", launcher="srun"))
        assert np.array_equal(generator.generate(batch, 4).tokens, stand_in.expected_tokens(batch, 4))
        assert [one["own"] for one in generator.inspect()] == ["r0", "r1"]
        mark = generator.group.mark
        with pytest.raises(GroupLost) as caught, generator.fault(f"tests.ranks.stand_in:{fault}", on=1, **params):
            generator.generate(batch, 4)
        assert cause in caught.value.headline, "not rank 0's `Connection closed by peer`"
    finally:
        pool.close_all()
    assert processes.members(mark) == []
