"""README's two commands as a new user has them: below a path with a space, without services, with advice that works."""

from __future__ import annotations

import configparser
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import types
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest

from genqual.errors import pip_install
from tests import services

ROOT: Final = Path(__file__).resolve().parents[2]


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A checkout's locks below a path that has what pip and URIs read in another way."""
    root = tmp_path / "a path with spaces" / "50% #1"
    shutil.copytree(ROOT / "constraints", root / "constraints")
    return root


def locks_uri(root: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What toxfile.py tells tox of a checkout at `root`; tox itself is not installed beside the tests."""
    plugin = types.ModuleType("tox.plugin")
    plugin.impl = lambda function: function  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tox", types.ModuleType("tox"))
    monkeypatch.setitem(sys.modules, "tox.plugin", plugin)
    spec = importlib.util.spec_from_file_location("toxfile", ROOT / "toxfile.py")
    assert spec is not None
    assert spec.loader is not None
    toxfile = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(toxfile)
    told: dict[str, str] = {}
    environment = SimpleNamespace(add_constant=lambda key, about, value: told.update({key: value}))
    toxfile.tox_add_env_config(environment, SimpleNamespace(conf=SimpleNamespace(core={"tox_root": root})))
    return told["locks_uri"]


def pip_with(**env: str) -> subprocess.CompletedProcess[str]:
    """pip asked for what is there already, with these variables: it reads its constraints, and installs nothing."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-index", "--quiet", "numpy"]
    return subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, check=False)


@pytest.mark.skipif(importlib.util.find_spec("pip") is None, reason="this environment has no pip")
def test_pip_reads_the_lock_of_a_clone_below_a_path_with_a_space(odd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = pip_with(PIP_CONSTRAINT=str(odd / "constraints" / "xeon.txt"))
    assert plain.returncode != 0, "the plain path was what failed"
    uri = f"{locks_uri(odd, monkeypatch)}/xeon.txt"
    done = pip_with(PIP_CONSTRAINT=uri, PIP_BUILD_CONSTRAINT=uri)
    assert "Could not open" not in done.stderr
    assert done.returncode == 0, done.stderr


def test_every_environment_has_its_lock_by_that_address() -> None:
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini")
    text = (ROOT / "tox.ini").read_text(encoding="utf-8")
    assert "{tox_root}{/}constraints" not in text
    locks = 0
    for name in tox.sections():
        given = dict(re.findall(r"^(PIP_(?:BUILD_)?CONSTRAINT) = (.*)$", tox[name].get("set_env", ""), re.MULTILINE))
        if given:
            locks += 1
            assert set(given) == {"PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT"}, name
            (address,) = set(given.values())
            assert address.startswith("{locks_uri}/"), name
            assert (ROOT / "constraints" / address.removeprefix("{locks_uri}/")).is_file(), name
    assert locks == 7
    for name in ("xeon", "cpu", "engines", "realistic"):
        extras = tox[f"testenv:{name}"]["extras"]
        extras = tox["testenv:xeon"]["extras"] if extras.startswith("{") else extras
        assert {"report", "upload"} <= set(extras.replace(" ", "").split(",")), name


@pytest.fixture
def nothing(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine on whose PATH nothing is."""
    empty = tmp_path / "empty"
    empty.mkdir()
    return {**{key: value for key, value in os.environ.items() if key != services.REQUIRED}, "PATH": str(empty)}


def ran_without(env: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    # A folder of PostgreSQL's that is not on PATH counts as well: here there shall be none.
    start = "import sys, pathlib, pytest, tests.results.postgres as server; "
    start += "server.PACKAGED = pathlib.Path('/nowhere'); sys.exit(pytest.main(sys.argv[1:]))"
    command = [sys.executable, "-c", start, *words, "-q", "-rsfE", "-p", "no:cacheprovider"]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=240)


NEEDY: Final = {
    ("tests/results/report/test_browser.py", "test_a_hostile_name_is_shown_and_never_run"): (
        "apt-get install -y chromium"
    ),
    ("tests/results/test_postgres.py", "test_a_server_without_our_tables_names_the_command_and_makes_nothing"): (
        "apt-get install -y postgresql"
    ),
}
"""A file, one of its tests that makes nothing before it asks for the service, and the command that brings that."""


def test_what_needs_an_absent_service_skips_with_its_command_and_fails_in_a_ci(nothing: dict[str, Any]) -> None:
    done = ran_without(nothing, *(place for place, _ in NEEDY))
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\d+ skipped", done.stdout.splitlines()[-1])
    assert not re.search(r"failed|error", done.stdout.splitlines()[-1])
    for command in NEEDY.values():
        assert re.search(rf"^SKIPPED .*{command}", done.stdout, re.MULTILINE), done.stdout
    done = ran_without({**nothing, services.REQUIRED: "1"}, *("::".join(one) for one in NEEDY))
    assert done.returncode == 1, done.stdout + done.stderr
    for (place, name), command in NEEDY.items():
        assert re.search(rf"^(FAILED|ERROR) {place}::{name}\b", done.stdout, re.MULTILINE), done.stdout
        assert re.search(rf"{command}.*\({services.REQUIRED} is set", done.stdout), done.stdout


def test_the_ci_brings_every_service_and_lets_none_be_skipped() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert re.search(rf"^export {services.REQUIRED}=1$", script, re.MULTILINE)
    for package in ("postgresql", "chromium", "libaio-dev", "numactl"):
        assert re.search(rf"\b{package}\b", script), package
    assert "GENQUAL_*" in (ROOT / "tox.ini").read_text(encoding="utf-8"), "tox must pass the flag on"


def test_advice_names_packages_that_an_index_has() -> None:
    """No index need have genqual: an error's next step says what pip can find, in a checkout and from a wheel alike."""
    words = shlex.split(pip_install(extra="report"))
    assert words[1:4] == ["-m", "pip", "install"]
    assert {re.split(r"[<>=']+", word)[0] for word in words[4:]} == {"altair", "jinja2", "vl-convert-python"}
    sources = [path for top in ("plugins", "suites", "fixtures") for path in (ROOT / top).rglob("*.py")]
    advised = re.compile(r"pip install[^\n]*genqual\[|install genqual with")
    assert [path.name for path in sources if advised.search(path.read_text(encoding="utf-8"))] == []
