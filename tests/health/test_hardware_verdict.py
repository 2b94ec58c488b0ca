"""Round every judged test: an uncorrectable error makes the verdict the hardware's, and nothing else does."""

from __future__ import annotations

import pytest

from tests.here import CPU

SUITE = """
from pathlib import Path
import pytest
from genqual.cases import Case
from genqual.session import hardware, outcome

LOG = Path(__file__).with_name("root") / "dev/kmsg"
LOG.parent.mkdir(parents=True, exist_ok=True)
LOG.write_text("6,100,5000,-;EDAC MC0: 1 UE memory read error on OLD (channel:0)\\n")
hardware.ROOT = LOG.parents[1]
pytestmark = pytest.mark.conformance("stand-in")
UE = "EDAC MC1: 1 UE memory read error on DIMM#3 (channel:0)"

@pytest.fixture
def said(request):
    def say(verdict):
        outcome.tell(request.node, verdict=verdict)
    return say

def log(line):
    with LOG.open("a") as stream:
        stream.write(f"2,{LOG.read_text().count(chr(10)) + 100},6000,-;{line}\\n")

def test_passes(case, said):
    said("pass")

def test_uncorrectable(case, said):
    log(UE)
    said("pass")

def test_after(case, said):
    said("pass")

def test_corrected(case, said):
    log(UE.replace(" UE ", " CE "))
    said("pass")

def test_application(case, said):
    log("NVRM: Xid (PCI:0000:3b:00): 31, pid=77, name=python, MMU fault")
    said("pass")

def test_wrong_too(case, said):
    log(UE)
    said("fail")
    assert 1 == 2, "logits differ"

def test_skips(case):
    log(UE)
    pytest.skip("judged nothing")
"""

WAIVER = """
[[waiver]]
test = "test_stand_in.py::test_wrong_too[{cpu}-transformers-llama-tiny-fp32]"
says = "logits differ"
issue = "a known failure of software"
expires = 2099-01-01
"""


def test_an_uncorrectable_error_makes_the_verdict_hardware(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_stand_in=SUITE)
    pytester.makeconftest("")
    waivers = pytester.mkdir("waivers")
    (waivers / f"{CPU}.toml").write_text(WAIVER.format(cpu=CPU))
    result = pytester.runpytest_subprocess(
        "test_stand_in.py", "-m", CPU, "--engine", "transformers", "--model", "llama-tiny", "--dtype", "fp32", "-rA",
        "-p", "no:cacheprovider", "--no-upload", f"--waivers={waivers}",
    )  # fmt: skip
    failed = [line.split()[1] for line in result.outlines if line.startswith("HARDWARE test_")]
    assert [one.partition("::")[2].partition("[")[0] for one in failed] == ["test_uncorrectable", "test_wrong_too"]
    result.stdout.fnmatch_lines(
        [
            "HARDWARE: kernel_log of mc1 DIMM#3 (memory): EDAC MC1: 1 UE*take the node out of service*",
            "The test passed within the same window.",
            "HARDWARE: kernel_log of mc1 DIMM#3*",
            "The test itself said: *logits differ*",
        ]
    )
    result.stdout.fnmatch_lines(["*2 failed, 4 passed, 1 skipped*"])
    result.stdout.fnmatch_lines(["*test_stand_in.py .H...Hs*"])
