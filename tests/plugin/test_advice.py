"""A failed verdict is one paragraph with the next command in it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from genqual.cases import Case
from genqual.conformance.judgement import Judgement
from genqual.session.failure_message import paragraph
from tests.conformance.oracle.small import SMALL, parameters
from tests.here import CPU
from tests.models.checkpoints import checkpoint
from tests.plugin.suite import EXAMPLE, suite

FAILED = Judgement("fail", "fp32", "logits", "Step 3 of prompt 1 is off. Smallest example of 9 tried: cuts = [1, 4].")


def test_it_names_case_property_example_and_the_next_step() -> None:
    said = paragraph(Case(CPU, "deepspeed-inference", "llama-tiny", "fp32", 2), "cache_equals_no_cache", FAILED,
                     restarted=True)  # fmt: skip
    assert said.startswith(f"{CPU}-deepspeed-inference-tp2-llama-tiny-fp32: cache equals no cache: Step 3 of prompt 1")
    assert "cuts = [1, 4]" in said
    assert "The weights had changed" in said
    assert "`genqual bisect llama-tiny --engine deepspeed-inference --ranks 2 --dtype fp32`" in said
    assert "\n" not in said


def test_a_declared_dtype_is_sent_to_fp32_first_and_tokens_to_nowhere() -> None:
    bf16 = Judgement("fail", "declared", "logits", "nrms 0.1.")
    case = Case(CPU, "transformers", "llama-tiny", "bf16")
    assert "--dtype fp32" in paragraph(case, "p", bf16, restarted=False)
    tokens = Judgement("fail", "fp32", "tokens", "Another text.")
    assert "genqual bisect" not in paragraph(case, "p", tokens, restarted=False)


def test_a_model_without_an_oracle_is_not_sent_to_bisect(tmp_path: Path) -> None:
    state, config = parameters(SMALL["llama"]), dict(SMALL["llama"])
    ours = checkpoint(tmp_path / "ours", state, config)
    other = checkpoint(tmp_path / "other", state, config | {"model_type": "stablelm"})
    said = [
        paragraph(Case(CPU, "transformers", str(one), "fp32"), "p", FAILED, restarted=False) for one in (ours, other)
    ]
    assert ["genqual bisect" in one for one in said] == [True, False]


def test_the_run_ends_with_commands_that_run_its_failures_again(tmp_path: Path) -> None:
    engine = ("--engine", "external", "--engine-command", f"{EXAMPLE} --fault rotary")
    run = suite(
        tmp_path, "-m", CPU, *engine, "--model=llama-odd", "--dtype", "fp32", "--no-upload",
        "suites/conformance/test_batching.py", "suites/conformance/test_cache.py", "suites/conformance/test_greedy.py",
    )  # fmt: skip
    failed = {one.rpartition("::")[2].partition("[")[0] for one in re.findall(r"^FAILED (\S+)", run.stdout, re.M)}
    assert len(failed) > 3, run.stdout
    closing = run.stdout.partition("= genqual: next =")[2]
    commands = re.findall(r"^\d+ x FAIL: pytest (.*)$", closing, re.M)
    assert len(commands) == 3
    assert f"{len(failed) - 3} more such commands are in what --junit-xml writes" in closing
    for words in map(shlex.split, commands[:1]):
        again = suite(tmp_path, *words, "--no-upload", "suites/conformance")
        assert again.returncode == 1
        (named,) = {
            one.rpartition("::")[2].partition("[")[0] for one in re.findall(r"^FAILED (\S+)", again.stdout, re.M)
        }
        assert named in failed
