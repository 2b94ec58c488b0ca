from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from genqual.cli import COMMANDS, main
from genqual.storage.spool import Spool
from tests.results.make import record

ROOT = Path(__file__).resolve().parents[2]


def ran(*words: str) -> int:
    """The exit code of `genqual words`, run in this process."""
    with pytest.raises(SystemExit) as stopped:
        main(words)
    return stopped.value.code if isinstance(stopped.value.code, int) else -1


def process(*words: str, cwd: Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """The same as a process of its own, as a user runs it."""
    return subprocess.run(
        [sys.executable, "-m", "genqual.cli", *words],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GENQUAL_UPLOAD", raising=False)
    spool = Spool(".genqual/spool")
    spool.write(record())
    spool.write(record(run="run-2", class_id="h100", device="cuda"))
    return tmp_path


def test_help_names_every_command_and_teaches_the_first_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert ran("--help") == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in COMMANDS)
    assert "pytest -m xeon --benchmark" in text
    assert "genqual doctor" in text


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "from genqual.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'numpy', 'pydantic', 'sqlalchemy', 'rich') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", ["compare", "push", "doctor", "models"])
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ran(command, "--help") == 0
    assert len(capsys.readouterr().out) > 200


def test_a_command_that_cannot_be_imported_breaks_no_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(COMMANDS, "reference", ("genqual.commands.no_such_module:reference", "Make a reference."))
    assert ran("--help") == 0
    assert ran("push", "--help") == 0
    capsys.readouterr()
    assert ran("reference") == 4
    error = capsys.readouterr().err
    assert "cannot run `genqual reference`" in error
    assert "Traceback" not in error


def test_push_then_compare(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ran("push") == 0
    assert "sqlite:///.genqual/results.db: 2 sent, 2 new there" in capsys.readouterr().out
    assert ran("push") == 0
    assert "0 sent" in capsys.readouterr().out
    assert ran("push", "--again", "sqlite:///other.db") == 0
    assert "2 sent, 2 new there" in capsys.readouterr().out
    assert ran("compare", ".genqual/results.db#class=xeon-6-2c", "other.db#class=h100") == 0
    table = capsys.readouterr().out
    assert "A: .genqual/results.db#class=xeon-6-2c: xeon-6-2c; run-1" in table
    assert "1.00x" in table
    assert ran("compare", "--markdown", ".genqual#run=run-1", "other.db#run=run-2") == 0
    assert "| llama-30m bf16 | transformers | b1-i32-n16 | TPOT ms | 20.0 | 20.0 | 1.00x |" in capsys.readouterr().out


def test_push_takes_its_url_from_the_environment(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GENQUAL_UPLOAD", "sqlite:///elsewhere.db")
    assert ran("push") == 0
    assert (here / "elsewhere.db").exists()


def test_push_that_fails_says_so_and_keeps_the_records(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ran("push", "mongodb://alice:s3cr3t@db/x", "sqlite:///good.db") == 1
    text = capsys.readouterr().out
    assert "mongodb://***@db/x: 0 sent" in text
    assert "FAILED" in text
    assert "sqlite:///good.db: 2 sent" in text
    assert "s3cr3t" not in text


def test_push_reports_a_damaged_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / ".genqual" / "spool" / ("0" * 64 + ".json")).write_text("torn")
    assert ran("push") == 1
    assert "quarantined: not a record" in capsys.readouterr().out
    assert ran("push") == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["compare", "a"], "Missing argument 'B'"),
        (["compare", "a.db", "b.db"], "a.db: No such file"),
        (["compare", ".genqual#class=zzz", ".genqual"], "none of its 2 records has class_id=zzz"),
        (["push", "--spool", "nowhere"], "nowhere is not a spool: give --spool DIR"),
        (["nonsense"], "No such command 'nonsense'"),
        (["models", "fetch", "no-such-model"], "no-such-model"),
    ],
)
def test_a_wrong_command_line_ends_with_4_and_one_paragraph(
    here: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ran(*words) == 4
    shown = capsys.readouterr()
    assert said in shown.err
    assert shown.out == ""


def test_the_paragraph_is_all_that_a_process_says(here: Path) -> None:
    done = process("compare", "a.db", "b.db", cwd=here)
    assert done.returncode == 4
    assert done.stdout == ""
    assert done.stderr.startswith("genqual: a.db: No such file")
    assert done.stderr.count("\n") == 1


def test_a_reader_that_has_seen_enough_is_no_error(here: Path) -> None:
    """As `genqual ... | head -n 0`: our standard output is closed before we write to it."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "genqual.cli", "compare", "--markdown", ".genqual", ".genqual"],
        cwd=here,
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(writer)
    assert done.stderr == ""
    assert done.returncode == 1


def test_models_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert ran("models", "list") == 0
    text = capsys.readouterr().out
    assert all(name in text for name in ("bloom-tiny", "llama-tiny", "bloom-30m", "llama-30m", "smollm2-135m"))


def test_doctor_names_every_device_and_what_to_do(here: Path) -> None:
    done = process("doctor", cwd=here)
    assert done.stderr == ""
    assert all(name in done.stdout for name in ("xeon", "cuda", "hpu", "xpu", "looked with:", "c++", "torch"))
    assert f"{here}/.genqual can be written" in done.stdout
    present = [line.split()[0] for line in done.stdout.splitlines() if " present " in line]
    assert done.returncode == (0 if present else 1)
    assert all(f"pytest -m {name} --benchmark" in done.stdout for name in present)
    assert not list((here / ".genqual").glob("tmp*"))


def test_doctor_says_when_results_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / ".genqual").write_text("in the way")
    done = process("doctor", cwd=tmp_path)
    assert done.returncode == 1
    assert "cannot be written: Not a directory" in done.stdout
    assert "pytest --state-dir DIR" in done.stdout


def test_doctor_without_a_compiler_says_what_to_install(here: Path, tmp_path: Path) -> None:
    done = process("doctor", cwd=here, env={"PATH": str(tmp_path)})
    assert "install c++ and ninja" in done.stdout
    assert "Traceback" not in done.stderr


def test_doctor_survives_a_compiler_that_does_not_work(here: Path, tmp_path: Path) -> None:
    broken = tmp_path / "bin" / "c++"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    done = process("doctor", cwd=here, env={"PATH": f"{broken.parent}:/bin"})
    assert f"{broken} does not work" in done.stdout


def test_no_command_imports_torch(here: Path) -> None:
    program = (
        "import sys\n"
        "from genqual.cli import main\n"
        "for words in (['doctor'], ['models', 'list'], ['push'], ['compare', '.genqual', '.genqual']):\n"
        "    try: main(words)\n"
        "    except SystemExit: pass\n"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=here, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
