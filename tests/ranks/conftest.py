"""Plans for groups of stand-in ranks, and one pool for each test module."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from genqual.cases import Case
from genqual.devices.base import Placement
from genqual.models.spec import ModelSpec
from genqual.ranks.deadlines import Deadlines
from genqual.ranks.group_spec import GroupPlan
from genqual.ranks.leases import Leases
from genqual.ranks.pool import Pool
from tests.here import CPU

ROOT = Path(__file__).resolve().parents[2]
PlanOf = Callable[..., GroupPlan]


def stand_in_plan(logs: Path, engine: str = "StandIn", *, ranks: int = 2, **changes: Any) -> GroupPlan:
    case = Case(device=CPU, engine=f"{engine.lower()}", model="none", dtype="fp32", ranks=ranks)
    values: dict[str, Any] = {
        "case": case,
        "implementation": f"tests.ranks.stand_in:{engine}",
        "model": ModelSpec("none", "embedded", "none", "llama"),
        "placement": Placement(env=tuple({"OMP_NUM_THREADS": "1", "STAND_IN_OWN": f"r{r}"} for r in range(ranks))),
        "torch_device": "cpu",
        "backend": "gloo",
        "logs": logs,
        "deadlines": Deadlines(start_s=60, load_s=60, base_s=60, first_s=0.001),
    }
    return GroupPlan(**{**values, **changes})


@pytest.fixture(scope="module", autouse=True)
def _ranks_can_import_these_tests() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
        yield


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logs")


@pytest.fixture(scope="module")
def plan_of(logs: Path) -> PlanOf:
    return lambda *args, **changes: stand_in_plan(logs, *args, **changes)


@pytest.fixture(scope="module")
def pool(logs: Path) -> Iterator[Pool]:
    one = Pool(2, leases=Leases(logs / "leases"))
    yield one
    one.close_all()
