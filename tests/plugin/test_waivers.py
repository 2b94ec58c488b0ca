"""Known failures are narrow, strict, explained and dated."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from genqual.errors import BadInput
from genqual.waivers import Register, read
from tests.here import CPU
from tests.plugin.suite import suite

TEST = f"test_greedy.py::test_every_logit_is_finite[{CPU}-transformers-llama-tiny-fp32]"
GOOD = f'[[waiver]]\ntest = "{TEST}"\nsays = "not finite"\nissue = "tracker 12"\nexpires = 2999-01-01\n'
CASES = {f"{CPU}-transformers-llama-tiny-fp32", f"{CPU}-transformers-llama-tiny-bf16"}
RUN = ("-m", f"{CPU} and conformance", "--engine", "transformers", "--model", "llama-tiny", "--dtype", "fp32")


def written(folder: Path, text: str) -> Path:
    file = folder / f"{CPU}.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_a_waiver_names_one_test_one_failure_and_where(tmp_path: Path) -> None:
    more = 'class = "xeon-6-*"\n[waiver.versions]\ntorch = ">=2.6,<3"\n'
    (waiver,) = read(written(tmp_path, GOOD + more))
    assert waiver.names(f"suites/conformance/{TEST}")
    assert not waiver.names(f"suites/conformance/{TEST}".replace("fp32", "bf16"))
    assert waiver.excuses("Logits are not finite in 3 choices")
    assert not waiver.excuses("nrms 0.1 exceeds 1e-5")
    assert waiver.holds("xeon-6-model-167", {"torch": "2.13.0"})
    assert not waiver.holds("xeon-5", {"torch": "2.13.0"})
    assert not waiver.holds("xeon-6-model-167", {"torch": "3.1"})
    assert not waiver.holds("xeon-6-model-167", {})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (('issue = "tracker 12"\n', ""), "issue missing"),
        (('"tracker 12"', '" "'), "issue is empty"),
        (("2999-01-01", '"2999-01-01"'), "without quotes"),
        ((f"[{CPU}-transformers-llama-tiny-fp32]", ""), "one test of one case"),
        (('"not finite"', '".*"'), "every message"),
        (('"not finite"', '"("'), "not a regular expression"),
        (("issue =", "isue = 1\nissue ="), "unknown isue"),
    ],
)
def test_a_waiver_that_is_not_narrow_is_refused(change: tuple[str, str], says: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=says):
        read(written(tmp_path, GOOD.replace(*change)))


def test_what_has_expired_and_what_names_nothing_fails_a_whole_run(tmp_path: Path) -> None:
    register = Register(read(written(tmp_path, GOOD)), date(2999, 1, 1))
    assert register.problems(whole=()) == []
    assert "names no test" in register.problems(whole=CASES)[0]
    others = {f"{CPU}-transformers-llama-tiny-bf16", f"{CPU}-transformers-bloom-tiny-fp32"}
    assert register.problems(whole=others) == [], "no case of this run"
    assert register.of(f"suites/conformance/{TEST}") is not None
    assert register.problems(whole=CASES) == []
    late = Register(read(written(tmp_path, GOOD)), date(2999, 1, 2))
    assert late.of(TEST) is None, "an expired waiver excuses nothing"
    assert "has expired" in late.problems(whole=())[0]


def test_a_known_failure_is_waived_and_one_that_passes_fails(tmp_path: Path) -> None:
    written(tmp_path, GOOD)
    broken = {"GENQUAL_TEST_FAULT": '{"name": "nan_logit"}'}
    args = (*RUN, "-k", "test_every_logit_is_finite", "--no-upload", f"--waivers={tmp_path}")
    run = suite(tmp_path, *args, "-p", "tests.faults.inject", f"--junitxml={tmp_path}/junit.xml", env=broken)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "1 waived" in run.stdout
    assert "WAIVED: tracker 12" in (tmp_path / "junit.xml").read_text()
    run = suite(tmp_path, *args)
    assert run.returncode == 1, run.stdout
    assert "WAIVED, yet it passes" in run.stdout
