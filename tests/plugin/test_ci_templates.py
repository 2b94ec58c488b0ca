"""The templates of docs/examples/ci: valid by the services' schemas, one in what they run, and run as they stand."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.here import CPU
from tests.installed import build, environment, program
from tests.plugin.suite import ROOT

TEMPLATES: Final = ROOT / "docs" / "examples" / "ci"
CASES: Final = ("engine", "changing", "before", "driver", "nightly")
NO_CHECKER: Final = importlib.util.find_spec("check_jsonschema") is None


def text_of(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def of_github() -> dict[str, str]:
    jobs: Any = yaml.safe_load(text_of("github-actions.yml"))["jobs"]
    steps = {(job, step.get("name")): step.get("run", "") for job, body in jobs.items() for step in body["steps"]}
    found = {job: steps[job, "judge"] for job in ("engine", "changing", "driver", "nightly")}
    return found | {"before": steps["driver", "before"]}


def of_gitlab() -> dict[str, str]:
    jobs: Any = yaml.safe_load(text_of("gitlab-ci.yml"))
    return {case: "\n".join(jobs[case]["script"]) for case in CASES}


def of_jenkins() -> dict[str, str]:
    stages = re.findall(r"stage\('([^']*)'\).*?sh '([^']*)'", text_of("Jenkinsfile"), flags=re.DOTALL)
    return {name: step for name, step in stages if not name.startswith("install")}


def of_slurm() -> dict[str, str]:
    found = re.findall(r"^(\w+)\)(?: #[^\n]*)?\n  ([^\n]*)\n  ;;", text_of("genqual.sbatch"), flags=re.MULTILINE)
    return {case: step for case, step in found if case in CASES}


def plain(step: str) -> str:
    """The step without what each service does by itself: where the summary goes, and the name of the commit."""
    step = step.strip().removesuffix(" --summary-markdown=genqual.md")
    return re.sub(r'--commit "[^"]*"', "--commit COMMIT", step)


@pytest.mark.skipif(NO_CHECKER, reason="needs check-jsonschema (extra `dev`)")
@pytest.mark.parametrize(
    ("file", "schema"),
    [
        ("github-actions.yml", ["--builtin-schema", "vendor.github-workflows"]),
        ("gitlab-ci.yml", ["--builtin-schema", "vendor.gitlab-ci", "--data-transform", "gitlab-ci"]),
    ],
)
def test_a_template_is_valid_by_the_service_s_schema(file: str, schema: list[str]) -> None:
    command = [sys.executable, "-m", "check_jsonschema", *schema, str(TEMPLATES / file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_service_runs_the_same_commands() -> None:
    wanted = {case: plain(step) for case, step in of_github().items()}
    assert set(wanted) == set(CASES)
    for other in (of_gitlab(), of_jenkins(), of_slurm()):
        assert {case: plain(step) for case, step in other.items()} == wanted


def test_a_template_uses_options_that_there_are() -> None:
    helps = {
        "pytest": ["-m", "pytest", "--help"],
        "genqual": ["-c", "from genqual.cli import main; main()", "rebase", "--help"],
    }
    known = {
        name: subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True).stdout
        for name, words in helps.items()
    }
    for case, step in of_jenkins().items():
        options = re.findall(r"(?<!\S)--[a-z][a-z-]*", step)
        assert options, case
        for option in options:
            option = "--junit-xml" if option == "--junitxml" else option  # pytest's help names one of its spellings
            assert option in known[step.split()[0]], (case, option)


def test_the_page_names_every_template_and_case() -> None:
    page = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
    for file in TEMPLATES.iterdir():
        assert f"examples/ci/{file.name}" in page
    for case in CASES:
        assert f"`{case}`" in page


def python_script_of(python: Path, setting: str) -> str:
    """A Python of another environment that is `python` with one environment variable set."""
    return f'#!/bin/sh\n{setting} exec "{python}" "$@"\n'


class Machine:
    """An empty folder on a machine that has the wheel installed, and steps that a service's agent runs there."""

    def __init__(self, python: Path, folder: Path) -> None:
        self.folder = folder
        cases = "--engine transformers --model llama-tiny --dtype fp32 --batch-sizes 2 --input-lengths 16"
        # What this test does not ask about is left out; the steps themselves stay as they are.
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("GITHUB_", "GENQUAL_"))},
            **{
                "PATH": f"{python.parent}:{os.environ['PATH']}",
                "GENQUAL_DEVICE": CPU,
                "GENQUAL_CASES": f"{cases} --new-tokens 4",
            },
            **{"COMMIT": "0" * 40, "GIT_COMMIT": "0" * 40},
            "PYTEST_ADDOPTS": "-p no:cacheprovider -k 'test_peak_memory or test_logits_match_the_oracle'",
        }

    def run(self, command: list[str], **more: str) -> tuple[int, str, str]:
        """Exit code, output and job summary."""
        summary = self.folder / "genqual.md"
        summary.unlink(missing_ok=True)
        done = subprocess.run(
            command, cwd=self.folder, env={**self.env, **more}, capture_output=True, text=True, check=False, timeout=900
        )
        return done.returncode, done.stdout + done.stderr, summary.read_text() if summary.is_file() else ""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = environment(build(tmp_path_factory.mktemp("wheel")), tmp_path_factory.mktemp("env") / "with spaces")
    program(found, "pytest", "-m", "pytest")
    short = 'if [ "$1" = rebase ]; then set -- "$@" --metric peak_memory --launches 8 --pause 0; fi'
    program(found, "genqual", "-c", "from genqual.cli import main; main()", before=short)
    return found


def step_of(machine: Machine, service: str, case: str, **more: str) -> tuple[int, str, str]:
    """One step as the agent of a service runs it."""
    if service == "jenkins":
        return machine.run(["sh", "-c", of_jenkins()[case]], **more)
    return machine.run(["sh", str(TEMPLATES / "genqual.sbatch")], CASE=case, **more)


@pytest.mark.heavy  # launches of a baseline and of two verdicts
@pytest.mark.parametrize("service", ["jenkins", "slurm"])
def test_steps_run_from_an_empty_folder(service: str, python: Path, tmp_path: Path) -> None:
    machine = Machine(python, tmp_path)

    def step(case: str) -> tuple[int, str, str]:
        return step_of(machine, service, case)

    code, said, summary = step("engine")
    assert (code, summary) == (4, ""), said
    assert "--baselines=baselines: no such directory" in said
    assert "`genqual rebase --out=baselines`" in said
    (tmp_path / "baselines").mkdir()
    code, said, summary = step("engine")
    assert code == 1, said
    assert "**NO BASELINE**" in summary, said
    assert re.search(r"`genqual rebase .*--out=baselines  # \d+ to \d+ min`", summary), summary
    code, said, _ = step("before")
    assert code == 0, said
    code, said, summary = step("driver")  # where others use the host, its own reason says so
    assert code == 0 or "noisy host" in said, said + summary
    shutil.copytree(tmp_path / "before", tmp_path / "baselines", dirs_exist_ok=True)
    code, said, summary = step("engine")
    assert code == 0, said
    assert re.search(r"^\| PASS \| `[^`]*` \| peak\\_memory b2-i16-n4 \| [\d.]+ MiB \|", summary, re.MULTILINE), summary
    code, said, summary = step("nightly")
    assert code == 0, said
    assert step("no such case")[0] == 4 if service == "slurm" else True


@pytest.mark.heavy  # launches of two environments in turns, for two verdicts
@pytest.mark.parametrize("service", ["jenkins", "slurm"])
def test_changing_machines_compare_two_environments_in_one_run(service: str, python: Path, tmp_path: Path) -> None:
    """The environment `old` beside today's: alike passes; then today's engine does half as much work again, and is red.

    Not 5 %: so small a model, in so short a run, tells that on a quiet machine only.
    """
    machine = Machine(python, tmp_path)
    code, said, summary = step_of(machine, service, "changing")
    assert (code, summary) == (4, ""), said
    assert "--baseline-from=old" in said
    old = tmp_path / "old" / "bin" / "python"
    old.parent.mkdir(parents=True)
    old.write_text(python_script_of(python, "GENQUAL_TEST_SLOWDOWN=0"))
    old.chmod(0o755)
    code, said, summary = step_of(machine, service, "changing")
    assert code == 0, said
    assert re.search(r"^\| PASS \| `[^`]*` \| peak\\_memory b2-i16-n4 \| [\d.]+ MiB \|", summary, re.MULTILINE), summary
    slow = {
        "PYTHONPATH": str(ROOT),
        "PYTEST_ADDOPTS": "-p no:cacheprovider -p tests.benchmarks.slow_plugin -k test_time_per_output_token",
        "GENQUAL_CASES": "--engine transformers --model llama-tiny --dtype fp32 --batch-sizes 1 --input-lengths 32",
        "GENQUAL_TEST_SLOWDOWN": "0.5",
        "GENQUAL_TEST_SLOW_WORK": str(tmp_path / "work"),
    }
    code, said, summary = step_of(machine, service, "changing", **slow)
    assert code == 1, said + summary
    row = re.search(r"^\| \**(REGRESSED|INCONCLUSIVE)\** \| `([^`]*)` \| tpot b1-i32-n\d+ \|", summary, re.MULTILINE)
    assert row is not None, said + summary
    assert "llama-tiny" in row[2]
