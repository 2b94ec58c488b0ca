"""First light keeps what it has: whichever moment it is interrupted at, and however."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from genqual.atomic import write_whole
from genqual.devices import simulated
from genqual.devices.registry import processor
from tests.hardware import first_light
from tests.hardware.first_light_steps import Step, steps

# Four steps of another process: each says its name, appends to `ran`, and waits where a file says so.
DRIVE = """
import sys
from pathlib import Path
from tests.hardware.first_light import run
from tests.hardware.first_light_steps import Step
from tests.hardware.test_first_light import stand_ins
folder = Path(sys.argv[1])
sys.exit(run(stand_ins(folder), folder, 60.0, resume="--resume" in sys.argv, heading="## Stand-ins\\n"))
"""
STEP = """
import sys, time
from pathlib import Path
folder, name = Path(sys.argv[1]), sys.argv[2]
with (folder / "ran").open("a") as file:
    file.write(name + "\\n")
with (folder / f"{name}.md").open("a") as file:  # a summary, as pytest appends it
    file.write(f"- {name} summed up\\n")
while (folder / f"wait-{name}").exists():
    time.sleep(0.02)
print(f"{name} says so")
sys.exit(name == "third")
"""
NAMES = ("first", "second", "third", "fourth")


def stand_ins(folder: Path) -> list[Step]:
    return [Step(name, f"what {name} answers", (sys.executable, "-c", STEP, str(folder), name), 0.0, 30.0)
            for name in NAMES]  # fmt: skip


def driven(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", DRIVE, str(folder), *words]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=Path(__file__).parents[2])


def outcomes(folder: Path) -> dict[str, str]:
    told = json.loads((folder / "first-light.json").read_text())
    return {one["name"]: one["outcome"] for one in told}


def ran(folder: Path) -> list[str]:
    return (folder / "ran").read_text().split() if (folder / "ran").exists() else []


def until_runs(folder: Path, name: str) -> None:
    end = time.monotonic() + 60
    while name not in ran(folder):
        assert time.monotonic() < end, f"{name} never began"
        time.sleep(0.02)  # until the other process has come so far


UNDISTURBED = {"first": "passed", "second": "passed", "third": "failed", "fourth": "passed"}


def test_every_step_is_run_in_order_and_told_in_the_section(tmp_path: Path) -> None:
    assert driven(tmp_path).wait(60) == 1  # the third fails
    assert ran(tmp_path) == list(NAMES)
    assert outcomes(tmp_path) == UNDISTURBED
    section = (tmp_path / "first-light.md").read_text()
    assert section.startswith("## Stand-ins")
    for name in NAMES:
        assert f"| {name} | what {name} answers | {UNDISTURBED[name]} |" in section
        assert f"{name} summed up" in section
        assert "says so" in (tmp_path / f"{name}.log").read_text()


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda sign: sign.name)
@pytest.mark.parametrize("at", ["first", "second", "fourth"])
def test_it_ends_as_an_undisturbed_run_once_it_is_resumed(tmp_path: Path, at: str, sign: signal.Signals) -> None:
    (tmp_path / f"wait-{at}").touch()
    interrupted = driven(tmp_path)
    until_runs(tmp_path, at)
    children = psutil.Process(interrupted.pid).children(recursive=True)
    interrupted.send_signal(sign)
    code = interrupted.wait(60)
    assert code == (-sign if sign == signal.SIGKILL else 130)
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive, "a step went on alone, and holds the device"
    before = NAMES[: NAMES.index(at)]
    if before:  # what had ended is kept, and in the section
        assert {name: outcomes(tmp_path)[name] for name in before} == {name: UNDISTURBED[name] for name in before}
        assert all(f"{name} summed up" in (tmp_path / "first-light.md").read_text() for name in before)
    (tmp_path / f"wait-{at}").unlink()
    (tmp_path / "ran").unlink()
    assert driven(tmp_path, "--resume").wait(60) == 1
    assert ran(tmp_path) == list(NAMES[NAMES.index(at) :]), "what had ended was run again, or something was left out"
    assert outcomes(tmp_path) == UNDISTURBED
    for name in NAMES:
        assert (tmp_path / "first-light.md").read_text().count(f"{name} summed up") == 1, "half a step is told, too"


def test_a_second_run_starts_anew_and_keeps_the_first(tmp_path: Path) -> None:
    """Steps go on where they find something: faults that an older commit was judged with are not this one's."""
    folder = tmp_path / "run"
    folder.mkdir()
    chosen = stand_ins(folder)[:1]
    for _ in range(2):
        assert first_light.run(chosen, folder, 60.0, resume=False, heading="## Twice\n") == 0
    assert ran(folder) == ["first"]
    assert ran(tmp_path / "run-1") == ["first"]


def test_a_signal_between_two_steps_ends_the_run_as_one_within(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a result is being written: the files stay whole, and nothing else is begun."""
    sent: list[Path] = []

    def killed(path: Path, data: bytes) -> None:
        if path.name == "first-light.json" and not sent:
            sent.append(path)
            os.kill(os.getpid(), signal.SIGTERM)
        write_whole(path, data)

    monkeypatch.setattr(first_light, "write_whole", killed)
    assert first_light.run(stand_ins(tmp_path), tmp_path, 60.0, resume=False, heading="## Between\n") == 130
    assert ran(tmp_path) == ["first"]
    assert outcomes(tmp_path) == {"first": "passed"}


def test_a_step_that_takes_too_long_is_ended_and_the_next_one_begun(tmp_path: Path) -> None:
    slow = (sys.executable, "-c", "import time; time.sleep(600)")
    chosen = [Step("slow", "nothing", slow, 0.0, 0.5), *stand_ins(tmp_path)[:1]]
    assert first_light.run(chosen, tmp_path, 60.0, resume=False, heading="## Slow\n") == 1
    assert outcomes(tmp_path) == {"slow": "out of time", "first": "passed"}


def test_what_the_time_does_not_allow_is_left_out_and_said(tmp_path: Path) -> None:
    first, second, *_ = stand_ins(tmp_path)
    long = Step(second.name, second.answers, second.command, 3600.0, 7200.0)
    assert first_light.run([first, long], tmp_path, 60.0, resume=False, heading="## Short\n") == 0
    assert outcomes(tmp_path) == {"first": "passed", "second": "left out"}
    assert "were left |" in (tmp_path / "first-light.md").read_text()


@pytest.mark.parametrize("device", ["cpu", "xeon", "cuda", "hpu", "xpu"])
def test_the_most_valuable_step_is_first_and_every_one_fits_the_device(device: str, tmp_path: Path) -> None:
    found = steps(device, tmp_path)
    names = [step.name for step in found]
    assert names[:4] == ["device", "eager", "latency", "faults"]
    assert names[-1] == "baseline"
    assert ("out-of-memory" in names) == (device not in ("cpu", "xeon"))
    assert sum(step.least_s for step in found) < 8 * 60, "no run of eight minutes could begin all"
    assert len({step.name for step in found}) == len(found)


def test_a_simulation_says_so_and_is_written_to_no_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(simulated.VARIABLE, "")  # as if it were not set, and put back: --simulate sets it
    with contextlib.suppress(SystemExit):
        first_light.main(["--device", "hpu", "--simulate", "--write", "--folder", str(tmp_path)])
    assert "--write is for what a card did" in capsys.readouterr().err
    monkeypatch.setattr(first_light, "steps", lambda device, state, simulate: stand_ins(state))
    assert first_light.main(["--device", "hpu", "--simulate", "--folder", str(tmp_path)]) == 1
    assert (tmp_path / "first-light.md").read_text().startswith("## First light: SIMULATED, no figure is a Gaudi's:")


@pytest.mark.parametrize("words", [["--device", "gpu"], ["--device", "cuda"], ["--simulate"]], ids=" ".join)
def test_wrong_usage_ends_with_2_before_anything_runs(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(simulated.VARIABLE, "")  # as if it were not set, and put back: --simulate sets it
    monkeypatch.setenv("PATH", str(tmp_path))  # no nvidia-smi
    with pytest.raises(SystemExit) as ended:
        first_light.main([*words, "--folder", str(tmp_path / "folder")])
    assert ended.value.code == 2
    assert not (tmp_path / "folder").exists()
    assert capsys.readouterr().err


@pytest.mark.heavy
@pytest.mark.parametrize("words", [["--device", processor().name], ["--device", "hpu", "--simulate"]], ids=" ".join)
def test_no_real_step_fails(words: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.hardware.first_light", *words, "--folder", str(tmp_path)]
    environment = {name: value for name, value in os.environ.items() if name != simulated.VARIABLE}
    subprocess.run(command, check=False, env=environment, cwd=Path(__file__).parents[2])
    assert set(outcomes(tmp_path).values()) <= {"passed", "left out", "out of time"}
    assert outcomes(tmp_path)["eager"] == "passed"
