"""Known failures are narrow, strict, explained and dated."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ET
from datetime import date
from pathlib import Path

import pytest

from genqual.errors import BadInput
from genqual.models.registry import resolve
from genqual.models.weights import sha256
from genqual.session.waivers import Register, read
from tests.here import CPU
from tests.plugin.suite import EXAMPLE, numpy_engine, suite

TEST = f"test_greedy.py::test_every_logit_is_finite[{CPU}-transformers-llama-tiny-fp32]"
GOOD = f'[[waiver]]\ntest = "{TEST}"\nsays = "not finite"\nissue = "tracker 12"\nexpires = 2999-01-01\n'
CASES = {f"{CPU}-transformers-llama-tiny-fp32", f"{CPU}-transformers-llama-tiny-bf16"}
RAN = f"{CPU}-external-llama-tiny-fp32"
"""The case of this file's runs: what a waiver does is the session's, whatever the engine."""
TOP = f"test_greedy.py::test_top_probabilities_match_the_oracle[{RAN}]"
KNOWN = GOOD.replace(TEST, TOP).replace("not finite", "nrms of the log-probabilities")


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
        pytest.param(
            ('issue = "tracker 12"\n', ""),
            r"\.toml: \[waiver 1\] 'issue' is missing; give test, says, issue, expires$",
            id="change0-issue missing",
        ),
        (('"tracker 12"', '" "'), "issue is empty"),
        (("2999-01-01", '"2999-01-01"'), "without quotes"),
        ((f"[{CPU}-transformers-llama-tiny-fp32]", ""), "one test of one case"),
        (('"not finite"', '".*"'), "every message"),
        (('"not finite"', '"("'), "not a regular expression"),
        pytest.param(
            ("issue =", "isue = 1\nissue ="),
            r"\.toml: \[waiver 1\] unknown key 'isue', did you mean issue\? \(known are test, .*weights\)$",
            id="change6-unknown isue",
        ),
        (("[[waiver]]", "[[waver]]"), r"\.toml: unknown key 'waver', did you mean waiver"),
        (
            ("issue =", 'versions = { torch = "two" }\nissue ='),
            r"\[waiver 1.versions\] torch = 'two': Invalid specifier",
        ),
        (("issue =", 'weights = "12345"\nissue ='), r"weights = '12345': give the first 8 or more hexadecimal"),
        (("issue =", 'weights = ""\nissue ='), r"weights = '': give the first 8"),
        (("2999-01-01", "2999-01-01T10:00:00"), "expires = datetime.*must be a date such as"),
        (('says = "not finite"', "says = 3"), r"\[waiver 1\] says = 3: must be a text in quotes"),
        (("[[waiver]]", GOOD + "[[waiver]]\nlevel = 1"), r"\[waiver 2\] unknown key 'level'"),
        (("[[waiver]]", "[[waiver"), r"\.toml: not TOML: "),
    ],
)
def test_a_waiver_that_is_not_narrow_is_refused(change: tuple[str, str], says: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=says):
        read(written(tmp_path, GOOD.replace(*change)))


def test_what_has_expired_and_what_names_nothing_fails_a_whole_run(tmp_path: Path) -> None:
    register = Register(read(written(tmp_path, GOOD)), date(2999, 1, 1))
    assert register.problems(whole=()) == []
    assert "matches no test" in register.problems(whole=CASES)[0]
    others = {f"{CPU}-transformers-llama-tiny-bf16", f"{CPU}-transformers-bloom-tiny-fp32"}
    assert register.problems(whole=others) == [], "no case of this run"
    assert register.in_force(f"suites/conformance/{TEST}", lambda: None)
    assert register.problems(whole=CASES) == []
    late = Register(read(written(tmp_path, GOOD)), date(2999, 1, 2))
    assert late.in_force(TEST, lambda: None) == [], "an expired waiver excuses nothing"
    assert "has expired" in late.problems(whole=())[0]


CASE = f"{CPU}-transformers-llama-tiny-fp32"
COLLECTED = [
    f"suites/conformance/{TEST}",
    f"suites/conformance/test_greedy.py::test_logits_match_the_oracle[{CASE}]",
    f"suites/performance/test_latency.py::test_time_per_output_token[{CASE}-b1-i32-n32]",
    f"suites/performance/test_latency.py::test_time_to_first_token[{CASE}-b1-i32-n32]",
]


LIMITED = [f"suites/performance/test_limits.py::test_a_limit[{CASE}-b1-i32-n32-tpot_ms=100]"]


@pytest.mark.parametrize(
    ("test", "selected", "workloads", "mistake"),
    [
        (COLLECTED[2], COLLECTED[:2], None, False),  # -m "conformance", or no --benchmark
        (COLLECTED[2], COLLECTED, None, False),
        ("test_latency.py::test_time_per_token[CASE-b1-i32-n32]", COLLECTED[:2], None, False),  # its file was left out
        ("test_latency.py::test_time_per_token[CASE-b1-i32-n32]", COLLECTED[:3], None, False),  # a part of it, by -k
        ("test_latency.py::test_time_per_token[CASE-b1-i32-n32]", COLLECTED, None, True),
        ("test_new.py::test_of_no_file[CASE]", COLLECTED[:2], None, False),
        ("test_new.py::test_of_no_file[CASE]", COLLECTED, None, True),
        ("test_greedy.py::test_every_logit_is_fine[CASE]", COLLECTED[:2], None, True),
        ("test_greedy.py::test_every_logit_is_fine[CASE]", COLLECTED[1:], None, False),
        ("test_greedy.py::test_every_logit_is_fine[OTHER]", COLLECTED, None, False),  # of no case of this run
        ("test_latency.py::test_time_per_output_token[CASE-b4-i32-n32]", COLLECTED, None, False),  # --batch-sizes 1
        ("test_latency.py::test_time_per_output_token[CASE-b4-i32-n32]", COLLECTED, {"b4-i32-n32"}, False),
        ("test_latency.py::test_time_per_output_token[CASE-b4-i32-n32]", COLLECTED, {"b1-i32-n32"}, True),
        ("test_latency.py::test_time_per_output_token[CASE-b4]", COLLECTED, None, True),
        ("test_limits.py::test_a_limit[CASE-b1-i32-n32-tpot_ms=50]", LIMITED, None, False),  # another profile's limit
        ("test_limits.py::test_a_limit[CASE-b1-i32-n32-ttft_ms=1e+06]", LIMITED, {"b1-i32-n32"}, False),
        ("test_limits.py::test_a_limit[CASE-b9-i32-n32-tpot_ms=50]", LIMITED, {"b1-i32-n32"}, True),
        ("test_limits.py::test_no_limit[CASE-b1-i32-n32-tpot_ms=50]", LIMITED, None, True),
        ("test_latency.py::test_time_per_token[CASE-b4-i32-n32]", COLLECTED, None, True),
    ],
)
def test_only_a_waiver_whose_test_could_have_been_selected_names_none(
    test: str, selected: list[str], workloads: set[str] | None, mistake: bool, tmp_path: Path
) -> None:
    said = test.replace("CASE", CASE).replace("OTHER", CASE.replace("fp32", "bf16"))
    register = Register(read(written(tmp_path, GOOD.replace(TEST, said))), date(2026, 1, 1))
    register.collected.update(selected if selected is LIMITED else COLLECTED)
    problems = register.problems(whole={CASE}, selected=selected, workloads=workloads)
    assert [f"{said} (tracker 12" in one and "matches no test" in one for one in problems] == [True] * mistake


def test_a_run_of_conformance_does_not_miss_the_tests_of_performance(tmp_path: Path) -> None:
    """Nothing narrows what is collected here, so that a waiver which names nothing is a mistake and another is not."""
    cases = '[[{}.cases]]\nengine = "external"\nmodels = ["llama-tiny"]\ndtypes = ["fp32"]\n'
    profile = tmp_path / "one.toml"
    profile.write_text(cases.format("conformance") + cases.format("performance"), encoding="utf-8")
    right = GOOD.replace(TEST, f"test_latency.py::test_time_per_output_token[{RAN}-b1-i32-n32]")
    other = GOOD.replace(TEST, f"test_latency.py::test_time_per_output_token[{RAN}-b4-i128-n32]")
    wrong = GOOD.replace(TEST, f"test_repeat.py::test_no_such_name[{RAN}]")
    written(tmp_path, right + other + wrong)
    asked = ("-m", f"{CPU} and conformance", f"--profile={profile}", "--engine-command", EXAMPLE, "--no-upload")
    run = suite(tmp_path, *asked, f"--waivers={tmp_path}")
    assert "failed" not in run.stdout.splitlines()[-1], run.stdout
    assert re.search(r"\d+ passed", run.stdout.splitlines()[-1]), run.stdout
    assert re.findall(r"waiver \S+ (\S+)::test_\S+ \(.*matches no test", run.stdout) == ["test_repeat.py"]
    assert run.returncode == 1
    kept = (*asked, f"--waivers={tmp_path}", "-k", "test_repeat")
    for words in (("-o", "python_files=test_repeat.py"), ("--continue-on-collection-errors",)):
        assert "matches no test" not in suite(tmp_path, *kept, *words).stdout, words
    assert "matches no test" in suite(tmp_path, *kept, "-o", "strict_markers=true").stdout


def verdicts_of(row: str, output: str) -> set[str]:
    """The last word of each row of the closing tables in which `row` stands."""
    closing = output[output.index("= genqual =") : output.index("genqual: records")]
    return {line.split()[-1] for line in closing.splitlines() if row in line}


def waived_in_junit(file: Path) -> list[str]:
    """Of each test whose only verdict is `waived`: how its skip begins, up to the second colon."""
    found = []
    for case in ET.parse(file).iter("testcase"):
        words = [one.get("value") for one in case.iter("property") if one.get("name") == "genqual_verdict"]
        if "waived" in words:
            assert words == ["waived"]
            assert case.find("failure") is None
            skipped = case.find("skipped")
            assert skipped is not None
            found.append(":".join(str(skipped.get("message")).split(":")[:2]))
    return found


def test_a_known_failure_is_waived_and_one_that_passes_fails(tmp_path: Path) -> None:
    written(tmp_path, KNOWN)
    asked = ("-m", f"{CPU} and conformance", "-k", "test_top_probabilities", "--no-upload", f"--waivers={tmp_path}")
    shown = (f"--junitxml={tmp_path}/junit.xml", f"--report={tmp_path}/page.html")
    run = suite(tmp_path, *asked, *numpy_engine("rotary"), *shown)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "1 waived" in run.stdout
    assert verdicts_of("top probabilities match the oracle", run.stdout) == {"WAIVED"}
    assert waived_in_junit(tmp_path / "junit.xml") == ["WAIVED: tracker 12, until 2999-01-01"]
    page = re.sub(r"<[^>]+>", "", (tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "1 waived" in page
    assert "WAIVED (tracker 12, until 2999-01-01): top_probabilities_match_the_oracle" in page
    assert "1 fail" not in page
    run = suite(tmp_path, *asked, *numpy_engine())
    assert run.returncode == 1, run.stdout
    assert "unexpected pass (WAIVED)" in run.stdout


def test_a_waiver_of_certain_weights_is_waived_in_every_table_and_of_no_other(tmp_path: Path) -> None:
    """Of a metric and of a property: a record is made before its test ends, and asks for the weights, too."""
    weights = sha256(resolve("llama-tiny"))
    timed = f"test_latency.py::test_time_per_output_token[{RAN}-b2-i16-n4]"
    both = KNOWN + GOOD.replace(TEST, timed).replace("not finite", "NO BASELINE")
    args = ["-m", CPU, "--benchmark", "--gate", *numpy_engine("rotary"), "--batch-sizes", "2", "--input-lengths", "16"]
    args += ["--new-tokens", "4", "-k", "test_top_probabilities or test_time_per_output_token", "--no-upload"]
    args += [f"--waivers={tmp_path}"]
    written(tmp_path, both.replace("issue =", f'weights = "{weights[:12]}"\nissue ='))
    run = suite(tmp_path, *args)
    assert run.returncode == 0, run.stdout + run.stderr
    assert verdicts_of("top probabilities match the oracle", run.stdout) == {"WAIVED"}
    assert verdicts_of("TPOT ms", run.stdout) == {"WAIVED"}
    written(tmp_path, both.replace("issue =", f'weights = "{"0" * 12}"\nissue ='))
    run = suite(tmp_path, *args)
    assert run.returncode == 1, run.stdout + run.stderr
    assert verdicts_of("top probabilities match the oracle", run.stdout) == {"FAIL"}
    assert "waived" not in run.stdout.splitlines()[-1]


def test_of_several_waivers_of_a_test_each_knows_its_own_failure(tmp_path: Path) -> None:
    """Whatever their order: one that has expired, or is for other weights or another message, hides no other."""
    late = GOOD.replace("2999", "2001")
    other = GOOD.replace("not finite", "out of memory").replace("tracker 12", "tracker 13")
    elsewhere = GOOD.replace("issue =", 'weights = "00000000"\nissue =')
    for order in itertools.permutations((late, other, elsewhere, GOOD)):
        register = Register(read(written(tmp_path, "".join(order))), date(2026, 1, 1))
        for said, issue in (("logits are not finite", "tracker 12"), ("rank 0: out of memory", "tracker 13")):
            found = register.excuse(TEST, said, lambda: "f" * 64)
            assert found is not None
            assert found.issue == issue
        assert register.excuse(TEST, "a rank was lost", lambda: None) is None


def test_a_known_failure_of_a_metric_is_waived_in_every_table(tmp_path: Path) -> None:
    test = f"test_latency.py::test_time_per_output_token[{RAN}-b2-i16-n4]"
    written(tmp_path, GOOD.replace(TEST, test).replace("not finite", "NO BASELINE"))
    args = ["-m", f"{CPU} and performance", "--benchmark", "--gate", *numpy_engine(), "--no-upload"]
    args += ["--batch-sizes", "2", "--input-lengths", "16", "--new-tokens", "4"]
    args += ["-k", "test_time_per_output_token or test_time_to_first"]
    args += [f"--waivers={tmp_path}", f"--junitxml={tmp_path}/junit.xml"]
    run = suite(tmp_path, *args, f"--report={tmp_path}/page.html")
    assert run.returncode == 1, "the other metric has no baseline and no waiver\n" + run.stdout
    assert "1 failed, 1 waived" in re.sub(r"\d+ deselected, ", "", run.stdout), run.stdout
    assert verdicts_of("TPOT ms", run.stdout) == {"WAIVED"}
    assert verdicts_of("TTFT ms", run.stdout) == {"BASELINE"}
    assert waived_in_junit(tmp_path / "junit.xml") == ["WAIVED: tracker 12, until 2999-01-01"]
    assert "<td>waived<td>measured" in (tmp_path / "page.html").read_text(encoding="utf-8")
