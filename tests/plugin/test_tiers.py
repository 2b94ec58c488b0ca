"""What an engine's evidence does not show is not applicable: neither passed nor failed, and said so."""

from __future__ import annotations

import json
import re
import shlex
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.here import CPU, PYTHON
from tests.plugin.suite import EXAMPLE, ROOT, suite

EXTERNAL = ("-m", CPU, "--engine", "external", "--model", "llama-tiny", "--dtype", "fp32", "--no-upload")


def test_the_example_of_the_docs_is_qualified_at_its_tier(tmp_path: Path) -> None:
    run = suite(
        tmp_path, *EXTERNAL, "--engine-command", EXAMPLE, "-k", "greedy or weights", "--gate",
        f"--junitxml={tmp_path}/junit.xml",
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    cases = {
        str(case.get("name")).partition("[")[0]: case for case in ET.parse(tmp_path / "junit.xml").iter("testcase")
    }
    for name in ("test_free_run_follows_the_oracle", "test_top_probabilities_match_the_oracle"):
        assert cases[name].find("skipped") is None, name
    for name in ("test_logits_match_the_oracle", "test_every_logit_is_finite"):
        skipped = cases[name].find("skipped")
        assert skipped is not None, f"{name} passed without any logits"
        assert "NOT APPLICABLE" in str(skipped.get("message"))
    assert f"3 x NOT APPLICABLE: {CPU}-external-llama-tiny-fp32: this property needs logits; external" in run.stdout
    assert "this property needs weights; external gives tokens only" in run.stdout


@pytest.mark.parametrize("fault", ["none", "rotary"])
def test_the_best_log_probabilities_tell_the_broken_example_from_the_right_one(fault: str, tmp_path: Path) -> None:
    """What the property is for: a rotary base that is 10 % off shows in numbers long before it shows in tokens."""
    run = suite(tmp_path, *EXTERNAL, "--engine-command", f"{EXAMPLE} --fault {fault}", "-k", "top_probabilities")
    assert run.returncode == (fault != "none"), run.stdout + run.stderr
    (body,) = [json.loads(path.read_text()) for path in (tmp_path / "spool").glob("*.json")]
    found = body["judgement"]
    assert (found["property"], found["tier"]) == ("top_probabilities_match_the_oracle", "top")
    assert found["verdict"] == ("pass" if fault == "none" else "fail")
    assert found["nrms"] < found["limit"] / 3 if fault == "none" else found["nrms"] > 1000 * found["limit"]
    assert ("nrms of the log-probabilities" in run.stdout) == (fault != "none")
    assert "Traceback" not in run.stdout


SILENT = """
import json, sys
for line in sys.stdin:
    request = json.loads(line)
    steps = [{"tokens": [3] * len(request["prompts"])}] * request["new_tokens"] if "prompts" in request else []
    for answer in steps or [{"protocol": 1, "name": "silent"}]:
        print(json.dumps(answer), flush=True)
"""


def test_who_gives_no_log_probabilities_is_judged_by_its_tokens(tmp_path: Path) -> None:
    (tmp_path / "silent.py").write_text(SILENT)
    run = suite(
        tmp_path, *EXTERNAL, "--engine-command", f"{PYTHON} {tmp_path / 'silent.py'}", "-rs",
        "-k", "top_probabilities or free_run",
    )  # fmt: skip
    assert run.returncode == 1, "three is not the oracle's answer"
    assert "NOT APPLICABLE: external gives tokens only: no log-probabilities came with them" in run.stdout
    assert re.search(r"1 failed, .*1 not applicable", run.stdout)


def test_who_gives_logits_is_judged_by_its_logits(tmp_path: Path) -> None:
    run = suite(
        tmp_path, "-m", CPU, "--engine", "transformers", "--model", "llama-tiny", "--dtype", "fp32", "--no-upload",
        "-rs", "-k", "top_probabilities", "--allow-absent",
    )  # fmt: skip
    assert "NOT APPLICABLE: transformers shows all its logits, and is judged by its logits" in run.stdout


@pytest.mark.parametrize("wrong", [False, True])
def test_the_first_answer_of_a_fresh_program_is_judged(wrong: bool, tmp_path: Path) -> None:
    """The last row of the very first request: what is asked first by the tests before is one row alone."""
    text = (ROOT / "docs" / "examples" / "numpy_engine.py").read_text()
    change = "        if step == 3 and not SEEN:\n            logits[-1] = np.roll(logits[-1], len(logits) - 1)\n"
    loop = "    for step in range(new_tokens):\n"
    assert loop in text
    seen = "        SEEN.append(1)\n" if not wrong else "        if step == 3:\n            SEEN.append(1)\n"
    text = text.replace(loop, loop + (change if wrong else "") + seen)
    (tmp_path / "engine.py").write_text(text.replace("def generate(", "SEEN: list[int] = []\n\n\ndef generate(", 1))
    run = suite(
        tmp_path, *EXTERNAL, "--engine-command", f"{PYTHON} {shlex.quote(str(tmp_path / 'engine.py'))}",
        "-k", "row0 or repeated_request or fresh_process or free_run",
    )  # fmt: skip
    assert run.returncode == wrong, run.stdout + run.stderr
    failed = re.findall(r"^FAILED \S+::(test_\w+)", run.stdout, flags=re.MULTILINE)
    assert failed == (["test_a_fresh_process_gives_the_same_bits"] if wrong else [])
    assert "Asked first: " in run.stdout or not wrong


@pytest.mark.heavy
@pytest.mark.parametrize("fault", ["stale-cache", "rotary"])
def test_the_broken_example_fails(fault: str, tmp_path: Path) -> None:
    run = suite(tmp_path, *EXTERNAL, "--engine-command", f"{EXAMPLE} --fault {fault}", "-k", "free_run")
    assert run.returncode == 1, run.stdout + run.stderr
    assert "a fault-free run may leave the text only below" in run.stdout
    assert "Traceback" not in run.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--engine", "server"], ["server needs --endpoint URL"]),
        (["--engine", "external"], ["external needs --engine-command"]),
        (["--endpoint", "ftp://here"], ["invalid URL", "expected for example http"]),
        (["--endpoint", "http://me:secret@here/v1"], ["http://here/v1", "GENQUAL_API_KEY"]),
        (["--endpoint", "http://here/v1?key=secret"], ["http://here/v1", "GENQUAL_API_KEY"]),
    ],
)
def test_what_is_missing_or_secret_is_told(arguments: list[str], words: list[str], tmp_path: Path) -> None:
    run = suite(tmp_path, "-m", CPU, *arguments)
    said = run.stdout + run.stderr
    assert run.returncode == 4, said
    for word in words:
        assert word in said
    assert "secret" not in said.replace(" ".join(arguments), "")


def test_a_server_that_is_not_there_is_said_once_and_plainly(tmp_path: Path) -> None:
    """A fixture that asks the engine fails before the test does; both must say the same."""
    run = suite(
        tmp_path, "-m", CPU, "--engine", "server", "--model", "llama-tiny", "--dtype", "fp32", "--no-upload",
        "--endpoint", "http://127.0.0.1:9/v1", "-k", "free_run or one_token",
    )  # fmt: skip
    assert run.returncode == 1, run.stdout + run.stderr
    assert re.search(r"1 failed, .*1 error", run.stdout)
    assert "During handling" not in run.stdout
    assert f"BadInput: {CPU}-server" in run.stdout
