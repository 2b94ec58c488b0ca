"""The examples of docs/examples/node: run with stand-ins of `genqual` and `squeue`, or held to their readers' rules.

tests/cluster runs the prolog and the epilog under a real Slurm.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from genqual.cli import genqual
from genqual.health.finding import Finding, NodeVerdict, Outcome, verdict_of

HERE = Path(__file__).parents[2] / "docs" / "examples" / "node"


def tool(folder: Path, name: str, text: str) -> None:
    path = folder / "bin dir" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def script(name: str, folder: Path, **more: str) -> int:
    path = f"{folder / 'bin dir'}:/usr/bin:/bin"
    env = {"GENQUAL_PATH": path, "GENQUAL_NODE_DIR": str(folder / "out dir"), **more}
    return subprocess.run([str(HERE / name)], env=env, check=False, timeout=60).returncode


def checking(status: int, *, writes: bool = True) -> str:
    """A `genqual` that is called as ours is, writes its document to --json, and ends with `status`."""
    return (
        '[ "$1" = node ] || exit 9\n'
        'while [ $# -gt 0 ]; do [ "$1" = --json ] && target="$2"; shift; done\n'
        f"{'echo made > ' + chr(34) + '$target' + chr(34) if writes else ':'}\nexit {status}"
    )


@pytest.mark.parametrize("status", [0, 1, 2, 137])
def test_the_prolog_passes_the_status_on(tmp_path: Path, status: int) -> None:
    tool(tmp_path, "genqual", checking(status))
    assert script("slurm-prolog.sh", tmp_path) == status
    assert (tmp_path / "out dir" / "node.json").read_text() == "made\n"


def test_the_prolog_drains_where_nothing_could_run(tmp_path: Path) -> None:
    assert script("slurm-prolog.sh", tmp_path) == 127, "no genqual on the path"
    tool(tmp_path, "genqual", checking(2, writes=False))
    (tmp_path / "out dir" / "node.json").write_text("old")
    assert script("slurm-prolog.sh", tmp_path) == 2
    assert (tmp_path / "out dir" / "node.json").read_text() == "old", "no new verdict: the old one stays"


@pytest.mark.parametrize(
    ("jobs", "status"), [("7", 1), ("", 1), ("7\n8", 0)], ids=["only this job", "none left", "another job runs"]
)
def test_the_epilog_checks_after_the_last_job_only(tmp_path: Path, jobs: str, status: int) -> None:
    tool(tmp_path, "genqual", checking(1))
    tool(tmp_path, "squeue", f"printf '{jobs}\\n'")
    assert script("slurm-epilog.sh", tmp_path, SLURM_JOB_ID="7", SLURMD_NODENAME="n1") == status
    tool(tmp_path, "squeue", "exit 1")
    assert script("slurm-epilog.sh", tmp_path, SLURM_JOB_ID="7", SLURMD_NODENAME="n1") == 2, "who is left is not known"


@pytest.mark.parametrize(
    ("stderr", "reason"),
    [
        (
            'stragglers: 9 rounds over 2 cores\na\'b of cpu: bad: 3 "of" 3\nmore\nunfit after 1 s',
            "a b of cpu: bad: 3  of  3",
        ),
        ("repeats of host: unknown: none\nunfit after 1 s", "repeats of host: unknown: none"),
        ("a: required, and never ran", "a: required, and never ran"),
        ("could not run: --allow x: no such file", "could not run: --allow x: no such file"),
        ("begun\nKilled", "Killed"),
    ],
)
def test_the_drain_reason_names_the_first_finding_against_the_node(tmp_path: Path, stderr: str, reason: str) -> None:
    (tmp_path / "told").write_text("".join(f"genqual node: {line}\n" for line in stderr.splitlines()))
    tool(tmp_path, "genqual", f"cat '{tmp_path}/told' >&2; exit 1")
    tool(tmp_path, "scontrol", f"printf '%s|' \"$@\" > '{tmp_path}/asked'; exit 1")
    assert script("slurm-prolog.sh", tmp_path, SLURMD_NODENAME="n1") == 1, "also where scontrol fails"
    asked = (tmp_path / "asked").read_text()
    assert asked == f"update|nodename=n1|state=drain|reason=genqual node: {reason}|"


def test_a_fit_node_is_not_drained(tmp_path: Path) -> None:
    tool(tmp_path, "genqual", checking(0))
    tool(tmp_path, "scontrol", f"touch '{tmp_path}/asked'")
    assert script("slurm-prolog.sh", tmp_path) == 0
    assert not (tmp_path / "asked").exists()


@pytest.mark.parametrize("name", ["slurm-prolog.sh", "slurm-epilog.sh"])
def test_settings_stand_beside_the_scripts(tmp_path: Path, name: str) -> None:
    """slurmd hands on no environment of its own, so nothing else reaches them."""
    etc = tmp_path / "etc dir"
    etc.mkdir()
    for one in ("slurm-prolog.sh", "slurm-epilog.sh"):
        shutil.copy(HERE / one, etc / one)
    tool(tmp_path, "genqual", f"printf '%s|' \"$@\" > '{tmp_path}/asked'; exit 0")
    tool(tmp_path, "squeue", "exit 0")
    settings = {"PATH": f"{tmp_path / 'bin dir'}:/usr/bin:/bin", "NODE_DIR": tmp_path / "out dir",
                "NODE_OPTIONS": "--level 2 --allow known.toml"}  # fmt: skip
    (etc / "genqual.conf").write_text("".join(f"GENQUAL_{key}='{value}'\n" for key, value in settings.items()))
    assert subprocess.run([str(etc / name)], env={}, check=False, timeout=60).returncode == 0
    assert (tmp_path / "asked").read_text().startswith("node|--level|2|--allow|known.toml|--state|")


def options_given(words: list[str]) -> set[str]:
    return set(re.findall(r"--[a-z]+", " ".join(words)))


def test_the_examples_use_options_that_there_are() -> None:
    told = CliRunner().invoke(genqual, ["node", "--help"]).output
    known = set(re.findall(r"(--[a-z]+)", told))
    (line,) = [one for one in (HERE / "slurm-prolog.sh").read_text().splitlines() if one.startswith("genqual node")]
    assert options_given(line.split()) <= known
    assert options_given(init_container()["command"]) <= known


def seconds(text: str) -> float:
    """A duration as Go's time.ParseDuration reads it. Raises ValueError."""
    units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3}
    if not re.fullmatch(r"(\d+(\.\d+)?(h|ms|m|s))+", text):
        raise ValueError(text)
    return sum(float(number) * units[unit] for number, _, unit in re.findall(r"(\d+(\.\d+)?)(ms|h|m|s)", text))


def refused_by_npd(config: dict[str, Any], paths: Path) -> list[str]:
    """What node-problem-detector's CustomPluginConfig would refuse, or read past in silence.

    By the rules of its ApplyConfiguration and Validate, v0.8.19. Rule paths are looked for by name in `paths`.
    """
    fields = {
        "": {"plugin", "pluginConfig", "source", "conditions", "rules", "metricsReporting"},
        "pluginConfig": {"invoke_interval", "timeout", "max_output_length", "concurrency",
                         "enable_message_change_based_condition_update", "skip_initial_status"},
        "conditions": {"type", "reason", "message"},
        "rules": {"type", "condition", "reason", "path", "args", "timeout"},
    }  # fmt: skip
    wrong = [f"field {name}" for name in config.keys() - fields[""]]
    wrong += [f"field pluginConfig.{name}" for name in config["pluginConfig"].keys() - fields["pluginConfig"]]
    for part in ("conditions", "rules"):
        wrong += [f"field {part}.{name}" for one in config[part] for name in one.keys() - fields[part]]
    if config["plugin"] != "custom":
        wrong.append("plugin")
    whole = config["pluginConfig"]
    seconds(whole["invoke_interval"])
    for rule in config["rules"]:
        if seconds(rule["timeout"]) > seconds(whole["timeout"]):
            wrong.append("timeout above the global one")
        if not os.access(paths / Path(rule["path"]).name, os.X_OK):
            wrong.append("path")
        if rule["type"] == "permanent" and rule["condition"] not in [one["type"] for one in config["conditions"]]:
            wrong.append("condition without a default")
        if rule["type"] not in ("permanent", "temporary"):
            wrong.append("type")
    return wrong


def npd() -> dict[str, Any]:
    config: dict[str, Any] = json.loads((HERE / "node-problem-detector.json").read_text())
    return config


def test_node_problem_detector_takes_the_config() -> None:
    assert not refused_by_npd(npd(), HERE)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"timeout": "11s"}, "timeout above the global one"),
        ({"condition": "Other"}, "condition without a default"),
        ({"path": "/config/plugin/none.py"}, "path"),
        ({"tiemout": "1s"}, "field rules.tiemout"),
    ],
)
def test_the_rules_of_the_reader_can_refuse(change: dict[str, str], why: str) -> None:
    config = npd()
    config["rules"][0] |= change
    assert refused_by_npd(config, HERE) == [why]


def document(outcome: Outcome, *, hours: float = 1.0) -> NodeVerdict:
    one = Finding(check="known_answers", entity="core 1", outcome=outcome, signal=1.0, evidence="wrong " * 40)
    began = datetime.now(UTC) - timedelta(hours=hours)
    return verdict_of([one], required=[], node="n", hardware_class="c", level="1", began=began)


FIT, UNFIT = document(Outcome.OK).model_dump_json(), document(Outcome.BAD).model_dump_json()


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        (FIT, 0, "said fit"),
        (UNFIT, 1, "unfit: known_answers of core 1: bad: wrong"),
        (document(Outcome.OK, hours=30).model_dump_json(), 2, "30 h old"),
        (document(Outcome.OK, hours=-3).model_dump_json(), 2, "clock was set back"),
        (FIT[:-30], 2, "no verdict"),
        (FIT.replace('"reasons":[]', '"reasons":["a reason"]'), 2, "no verdict"),
        ("[]", 2, "no verdict"),
        (None, 2, "no verdict"),
    ],
    ids=["fit", "unfit", "old", "of the future", "cut off", "contradicts itself", "no object", "absent"],
)
def test_the_plugin_tells_the_last_verdict(tmp_path: Path, text: str | None, status: int, said: str) -> None:
    path = tmp_path / "node.json"
    if text is not None:
        path.write_text(text)
    rule, most = npd()["rules"][0], npd()["pluginConfig"]["max_output_length"]
    words = [sys.executable, str(HERE / Path(rule["path"]).name), str(path), rule["args"][1]]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (status, "")
    assert said in done.stdout
    assert len(done.stdout.strip()) <= most


def job() -> dict[str, Any]:
    read: dict[str, Any] = importlib.import_module("yaml").safe_load((HERE / "kubernetes-init.yaml").read_text())
    return read


def init_container() -> dict[str, Any]:
    (container,) = job()["spec"]["template"]["spec"]["initContainers"]
    found: dict[str, Any] = container
    return found


def test_the_init_container_stands_before_the_work_and_has_what_it_mounts() -> None:
    """Of the structure only: there is no cluster here to ask."""
    manifest = job()
    pod = manifest["spec"]["template"]["spec"]
    assert (manifest["apiVersion"], manifest["kind"], pod["restartPolicy"]) == ("batch/v1", "Job", "Never")
    assert pod.keys() == {"restartPolicy", "initContainers", "containers", "volumes"}
    volumes = {one["name"] for one in pod["volumes"]}
    for container in (*pod["initContainers"], *pod["containers"]):
        assert {one["name"] for one in container["volumeMounts"]} <= volumes
    init = init_container()
    assert init["command"][:2] == ["genqual", "node"]
    assert init["resources"]["requests"] == init["resources"]["limits"], "else it has no cores of its own"
    target = init["command"][init["command"].index("--json") + 1]
    assert any(target.startswith(one["mountPath"] + "/") for one in init["volumeMounts"])
