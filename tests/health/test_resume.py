"""`--resume`: after kill -9 at any moment the resumed run ends with the verdict of an undisturbed one."""

from __future__ import annotations

import json
import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from genqual.errors import BadInput
from genqual.health.checks.base import Node
from genqual.health.finding import Finding, Outcome
from genqual.health.levels import Level, run
from genqual.health.run_state import Kept, RunState
from tests.here import CPU
from tests.plugin import forked


def start(here: Path, moment: int, *words: str) -> subprocess.CompletedProcess[str]:
    """`genqual node --state` over `here`, in a process that ends at that moment; -1 is none."""
    return forked.run([str(here), str(moment), *words], os.environ, 120, "tests.health.marked_node")


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    log = tmp_path / "root/dev/kmsg"
    log.parent.mkdir(parents=True)
    log.write_text("6,100,5000,-;harmless\n")
    return tmp_path


def gist(document: str, here: Path) -> tuple[str, Any, Any]:
    """Verdict, reasons and findings, without times and without the folder they are of."""
    read = json.loads(document.replace(str(here), "HERE"))
    findings = sorted((one["check"], one["entity"], one["outcome"], one["evidence"]) for one in read["findings"])
    return read["verdict"], read["reasons"], [one for one in findings if one[0] != "energy"]


MOMENTS = 20  # marks of an undisturbed run: two a check, and two a write of the state, of which there are six


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any, Any]:
    here = tmp_path_factory.mktemp("undisturbed")
    (here / "root/dev").mkdir(parents=True)
    (here / "root/dev/kmsg").write_text("6,100,5000,-;harmless\n")
    done = start(here, -1)
    assert done.returncode == 1, done.stderr
    assert (here / "marks").read_text() == str(MOMENTS)
    assert not (here / "state.json").exists(), "nothing is left to resume once the verdict is out"
    verdict = gist(done.stdout, here)
    assert verdict[0] == "unfit"
    assert ("kernel_log", "mc1 DIMM#3") in [one[:2] for one in verdict[2]]
    return verdict


@pytest.mark.parametrize("moment", [1, 3, 5, 6, 8, 9, 11, 13, 14, 16, 18, 19])
def test_a_killed_run_goes_on_to_the_same_verdict(stage: Path, undisturbed: tuple[str, Any, Any], moment: int) -> None:
    killed = start(stage, moment)
    assert killed.returncode == -9, killed.stderr
    assert killed.stdout == "", "no document of half a run"
    before = (stage / "ran").read_text().split() if (stage / "ran").exists() else []
    done = json.loads((stage / "state.json").read_text())["checks"]
    resumed = start(stage, -1, "--resume")
    assert resumed.returncode == 1, resumed.stderr
    assert gist(resumed.stdout, stage) == undisturbed
    ran = (stage / "ran").read_text().split()[len(before) :]
    assert ran == [name for name in ("first", "strikes", "wrong", "last") if name not in done], "nothing runs twice"


def test_a_run_that_was_killed_before_it_began_says_so(stage: Path, undisturbed: tuple[str, Any, Any]) -> None:
    assert start(stage, 0).returncode == -9
    refused = start(stage, -1, "--resume")
    assert refused.returncode == 2
    assert "no run was interrupted" in refused.stderr
    assert gist(start(stage, -1).stdout, stage) == undisturbed


def state(path: Path, *, resume: bool, level: str = "2") -> RunState:
    return RunState(path, {"level": level, "boot": "a"}, resume=resume)


class Good:
    name, summary, required, seconds, stretches, privileges = "good", "", True, 1.0, False, "none"

    def run(self, node: Node, seconds: float) -> list[Finding]:
        return [Finding(check="good", entity="core 0", outcome=Outcome.OK, required=True, signal=1.0)]


def judged(tmp_path: Path, kept: RunState) -> str:
    node = Node(CPU, (0,), tmp_path, root=tmp_path / "root")
    return run(node, Level("2", 60.0), name="n", hardware_class="c", checks=[Good()], state=kept).verdict


def test_what_is_of_another_run_or_damaged_is_not_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    assert judged(tmp_path, state(path, resume=False)) == "fit"
    with pytest.raises(BadInput, match=r"level 2 then, 3 now"):
        judged(tmp_path, state(path, resume=True, level="3"))
    path.write_text(path.read_text()[:-20])
    with pytest.raises(BadInput, match="start anew"):
        judged(tmp_path, state(path, resume=True))
    damages: list[dict[str, Any]] = [{}, {"readings": {}}, {"readings": 3, "next_record": "x"}]
    for damage in damages:
        kept = Kept(run=state(path, resume=True).run, began=datetime.now(UTC), window={"odd": 1, **damage})
        path.write_text(kept.model_dump_json())
        with pytest.raises(BadInput, match=r"counters that the interrupted run kept.*start anew"):
            judged(tmp_path, state(path, resume=True))
    assert judged(tmp_path, state(path, resume=False)) == "fit", "a new run replaces what was there"
