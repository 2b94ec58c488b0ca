"""The prolog and the epilog of docs/examples/node under a real Slurm: fit, unfit, and where the check could not run."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from tests.cluster.conftest import Start
from tests.cluster.slurm import Slurm

pytestmark = pytest.mark.heavy  # each check of a fit node takes a minute

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples" / "node"
# A process that may map no more cannot load torch: the node is really unfit, and so is every check of it.
TOO_LITTLE = 400_000_000
# What a check of a fit node may take here, where others use the host: 60 s on a node alone.
FIT_S = 900
# The required checks only: whether one core is slower than its siblings cannot be told beside other work.
REQUIRED = 'GENQUAL_NODE_OPTIONS="--minutes 0.8"'


class Site:
    """/etc/genqual of a node: the examples as they are, and their settings."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out = folder / "etc", folder / "var"
        for made in (self.folder, folder / "bin", folder / "tmp"):
            made.mkdir()
        for name in ("slurm-prolog.sh", "slurm-epilog.sh"):
            shutil.copy(EXAMPLES / name, self.folder / name)
        genqual = folder / "bin" / "genqual"
        genqual.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c '
                           '"from genqual.cli import main; main()" "$@"\n')  # fmt: skip
        genqual.chmod(0o755)
        self.settings()

    def settings(self, *more: str) -> None:
        """Write genqual.conf. The lock of `genqual node` is in a place of its own: other runs are not waited for."""
        base = self.folder.parent
        lines = [f"GENQUAL_PATH={base / 'bin'}:/usr/local/bin:/usr/bin:/bin", f"GENQUAL_NODE_DIR={self.out}"]
        lines += [f"export TMPDIR={base / 'tmp'}", *more]
        (self.folder / "genqual.conf").write_text("\n".join(lines) + "\n")

    def could_not_run(self) -> None:
        """A list of known findings that is not there."""
        self.settings(f'GENQUAL_NODE_OPTIONS="--level 1 --allow {self.folder}/known.toml"')

    @property
    def prolog(self) -> Path:
        return self.folder / "slurm-prolog.sh"

    @property
    def epilog(self) -> Path:
        return self.folder / "slurm-epilog.sh"

    def verdict(self) -> str:
        """Of the last document, or none."""
        path = self.out / "node.json"
        return str(json.loads(path.read_text())["verdict"]) if path.exists() else "none"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def resume(slurm: Slurm) -> None:
    slurm.run("scontrol", "update", f"nodename={slurm.node}", "state=resume")


def test_a_job_runs_after_the_prolog_found_the_node_fit(site: Site, start: Start) -> None:
    slurm = start(prolog=site.prolog)
    verdict = site.out / "node.json"
    job = slurm.submit(f"cat {verdict}", "--exclusive")
    slurm.wait_for_job(job, "COMPLETED", "FAILED", seconds=FIT_S)
    assert slurm.job(job)[0][0] == "COMPLETED", "the document was there before the job"
    assert site.verdict() == "fit"
    assert slurm.wait_for_node("idle") == "none"


def test_an_unfit_node_is_drained_and_its_job_waits_until_it_is_mended(site: Site, start: Start) -> None:
    site.settings(REQUIRED)
    slurm = start(prolog=site.prolog)
    slurm.limit_memory(TOO_LITTLE)
    job = slurm.submit(f"echo ran >> {site.folder}/ran", "--exclusive")
    reason = slurm.wait_for_node("drained")
    assert reason.startswith("genqual node: generation of "), "the reason names the check"
    assert ": bad: " in reason
    assert site.verdict() == "unfit"
    slurm.wait_for_job(job, "PENDING")
    assert not (site.folder / "ran").exists()
    assert "held" in slurm.job(job)[0][1], "requeued, and held until somebody releases it"
    slurm.limit_memory(-1)
    resume(slurm)
    slurm.run("scontrol", "release", job)
    # Slurm starts a requeued job two minutes later at the earliest. `starttime=now` is no way round: docs/node.md.
    slurm.wait_for_job(job, "COMPLETED", seconds=FIT_S)
    assert (site.folder / "ran").read_text() == "ran\n", "once"
    assert site.verdict() == "fit"
    assert slurm.wait_for_node("idle") == "none"


def test_a_node_that_could_not_be_checked_is_drained(site: Site, start: Start) -> None:
    slurm = start(prolog=site.prolog)
    site.could_not_run()
    site.out.mkdir()
    (site.out / "node.json").write_text('{"verdict": "old"}')
    job = slurm.submit("true", "--exclusive")
    reason = slurm.wait_for_node("drained")
    assert reason.startswith("genqual node: could not run: "), reason
    assert "known.toml" in reason
    assert site.verdict() == "old", "no new verdict: the old one stays"
    slurm.wait_for_job(job, "PENDING")


def test_a_check_that_slurm_cuts_off_drains_the_node(site: Site, start: Start) -> None:
    """With Slurm's own reason: it kills the script and all that it started at once."""
    slurm = start(prolog=site.prolog, timeout_s=2)
    job = slurm.submit("true", "--exclusive")
    assert slurm.wait_for_node("drained") == "Prolog error"
    assert "held" in slurm.job(job)[0][1]
    assert site.verdict() == "none"


def test_the_epilog_checks_the_node_after_its_last_job(site: Site, start: Start) -> None:
    site.settings(REQUIRED)
    slurm = start(epilog=site.epilog)
    job = slurm.submit("true", "--exclusive")
    slurm.wait_for_job(job, "COMPLETED", seconds=FIT_S)
    assert slurm.wait_for_node("idle") == "none"
    assert site.verdict() == "fit"
    slurm.limit_memory(TOO_LITTLE)
    job = slurm.submit("true", "--exclusive")
    reason = slurm.wait_for_node("drained")
    assert reason.startswith("genqual node: generation of "), "the reason names the check"
    assert site.verdict() == "unfit"
    assert slurm.job(job)[0][0] == "COMPLETED", "the job had ended well"


def test_the_epilog_waits_for_the_last_job_and_drains_where_it_could_not_check(site: Site, start: Start) -> None:
    slurm = start(epilog=site.epilog)
    site.could_not_run()
    if slurm.run("sinfo", "--noheader", "--format=%c") == "1":
        pytest.skip("one core: no two jobs at once")
    last = slurm.submit("sleep 300", "--ntasks=1")
    slurm.wait_for_job(last, "RUNNING")
    first = slurm.submit("true", "--ntasks=1")
    slurm.wait_for_job(first, "COMPLETED")
    assert slurm.state() == ("mixed", "none"), "another job runs: not checked"
    slurm.run("scancel", last)
    assert slurm.wait_for_node("drained").startswith("genqual node: could not run: ")
