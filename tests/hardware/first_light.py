"""All that a few minutes on a new device allow, the most valuable first; what it has is kept when it is interrupted.

    python -m tests.hardware.first_light --device cuda --minutes 8

Each step is a command of its own. Its outcome, seconds and log are on disk when it ends; the same call with --resume
goes on behind the last step that ended. FOLDER/first-light.md is the section for docs/hardware-runs.md: --write puts it
there. With --simulate it says so in every record and in its heading, and --write is refused.
Exit 0: every step that was begun ended well. 1: one did not. 2: wrong usage. 130: interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import itertools
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from genqual.atomic import write_whole
from genqual.devices import simulated
from genqual.devices.registry import devices, processor
from genqual.errors import GenqualError
from genqual.health.children import ends_with_us
from tests.hardware.first_light_steps import NO_BASELINES, Step, files, steps

PAGE: Final = Path(__file__).parents[2] / "docs" / "hardware-runs.md"
GRACE_S: Final = 20.0  # from SIGINT, at which pytest writes its records, to SIGKILL
LAST_LINES: Final = 12  # of a log, in the section
_DONE: Final = frozenset({"passed", "failed"})  # what --resume does not run again


class Interrupted(Exception):
    """A signal asked for the end."""


def main(arguments: Sequence[str]) -> int:
    """Run the steps, print a line for each, write the section."""
    options = _parser().parse_args(arguments)
    if options.simulate and options.write:
        _parser().error("--write is for what a card did; a simulation has its own page in the folder")
    try:
        if options.simulate:
            simulated.switch_on()
    except GenqualError as error:
        _parser().error(str(error))
    if options.device not in devices():
        _parser().error(f"--device {options.device}: the devices are {', '.join(devices())}")
    if options.simulate and options.device != "hpu":
        _parser().error("--simulate goes with --device hpu")
    folder = options.folder or Path(".genqual") / f"first-light-{options.device}{'-simulated' * options.simulate}"
    chosen = steps(options.device, folder.absolute(), simulate=options.simulate)
    if options.list:
        for number, step in enumerate(chosen, 1):
            print(f"{number:2d} {step.name:14s} at most {step.most_s:3.0f} s  {step.answers}")
            print(f"   {shlex.join(step.command)}")
        return 0
    found = devices()[options.device].probe()
    if not found.present:
        _parser().error(f"{options.device} is absent: {found.probe} found {found.found}")
    return run(
        chosen, folder, options.minutes * 60, resume=options.resume, heading=_heading(options), write=options.write
    )


def run(
    chosen: Sequence[Step], folder: Path, seconds: float, *, resume: bool, heading: str, write: bool = False
) -> int:
    """Run `chosen` within `seconds`, in order; returns the exit code."""
    journal = folder / "first-light.json"
    if not resume and journal.exists():
        _set_aside(folder)
    (folder / NO_BASELINES).mkdir(parents=True, exist_ok=True)
    told: list[dict[str, Any]] = json.loads(journal.read_text(encoding="utf-8")) if resume and journal.exists() else []
    told = [one for one in told if one["outcome"] in _DONE]
    for file, text in files(folder.absolute()).items():
        write_whole(file, text.encode())
    end = time.monotonic() + seconds
    ended = {one["name"] for one in told}
    code = 0
    with _signals(), contextlib.suppress(Interrupted):
        for step in chosen:
            if step.name in ended:
                continue
            left = end - time.monotonic()
            if left < step.least_s:
                told.append({"name": step.name, "outcome": "left out", "why": f"{left:.0f} s were left"})
                continue
            code = 130  # unless this step, and what is written of it, come to their end
            print(f"{step.name}: {step.answers} (at most {min(left, step.most_s):.0f} s)", flush=True)
            one = _ran(step, folder, min(left, step.most_s))
            told.append(one)
            write_whole(journal, json.dumps(told, indent=1).encode())
            write_whole(folder / "first-light.md", _section(chosen, told, folder, heading).encode())
            print(f"  {one['outcome']} after {one['seconds']:.0f} s: {one['last']}", flush=True)
            if one["outcome"] == "interrupted":
                break
            code = 0
    section = _section(chosen, told, folder, heading)
    write_whole(journal, json.dumps(told, indent=1).encode())
    write_whole(folder / "first-light.md", section.encode())
    if write:
        page = PAGE.read_text(encoding="utf-8")
        write_whole(PAGE, (page.rstrip("\n") + "\n\n" + section).encode())
    print(f"{folder / 'first-light.md'}{f', and {PAGE}' if write else ''}")
    return code or int(any(one["outcome"] not in ("passed", "left out") for one in told))


def _set_aside(folder: Path) -> None:
    """Keep an older run beside this one: what it judged is not this one's, and its steps would go on with it."""
    number = next(number for number in itertools.count(1) if not folder.with_name(f"{folder.name}-{number}").exists())
    kept = folder.rename(folder.with_name(f"{folder.name}-{number}"))
    print(f"the run that was in {folder} is in {kept} now")


def _ran(step: Step, folder: Path, most_s: float) -> dict[str, Any]:
    """Run one step; its processes end with it, however it ends."""
    log = folder / f"{step.name}.log"
    (folder / f"{step.name}.md").unlink(missing_ok=True)  # pytest appends to it
    began = time.monotonic()
    outcome = "interrupted"
    with log.open("wb") as out:
        child = subprocess.Popen(
            step.command,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=ends_with_us(),  # with kill -9 of this process, too: a step that goes on holds the device
        )
        try:
            outcome = "passed" if child.wait(most_s) == 0 else "failed"
        except subprocess.TimeoutExpired:
            outcome = "out of time"
        except Interrupted:
            pass
        finally:
            _end(child)
    return {
        "name": step.name,
        "outcome": outcome,
        "exit": child.returncode,
        "seconds": time.monotonic() - began,
        "last": _last_line(log),
        "command": list(step.command),
    }


def _end(child: subprocess.Popen[bytes]) -> None:
    """SIGINT, so that pytest writes what it has; SIGKILL to the group after a while. Harmless to what has ended."""
    for ask, wait_s in ((signal.SIGINT, GRACE_S), (signal.SIGKILL, GRACE_S)):
        if child.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, ask)
            with contextlib.suppress(subprocess.TimeoutExpired, Interrupted):
                child.wait(wait_s)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)  # what a step left behind holds the device


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """SIGINT and SIGTERM end the step that runs, and then the run."""

    def interrupted(*_: object) -> None:
        raise Interrupted

    before = {number: signal.signal(number, interrupted) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _last_line(log: Path) -> str:
    lines = [line.strip(" =") for line in _lines(log) if line.strip(" =")]
    return lines[-1] if lines else ""


def _lines(log: Path) -> list[str]:
    return log.read_text(encoding="utf-8", errors="replace").splitlines()


def _heading(options: argparse.Namespace) -> str:
    identity = devices()[options.device].identity()
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    what = "SIMULATED, no figure is a Gaudi's: " if options.simulate else ""
    again = f"python -m tests.hardware.first_light --device {options.device} --minutes {options.minutes:g}"
    return (
        f"## First light: {what}{identity.class_id}, {today}\n\n"
        f"    {again}{' --simulate' if options.simulate else ''}\n"
    )


def _section(chosen: Sequence[Step], told: Sequence[dict[str, Any]], folder: Path, heading: str) -> str:
    """Markdown: a table of the steps in their order, then what each that was begun says."""
    by_name = {one["name"]: one for one in told}
    lines = [heading, "| step | answers | outcome | seconds | says |", "|---|---|---|---|---|"]
    for step in chosen:
        one = by_name.get(step.name, {"outcome": "not reached"})
        seconds = f"{one['seconds']:.0f}" if "seconds" in one else ""
        said = str(one.get("last") or one.get("why") or "").replace("|", "\\|")
        lines.append(f"| {step.name} | {step.answers} | {one['outcome']} | {seconds} | {said} |")
    for step in chosen:
        summary, log = folder / f"{step.name}.md", folder / f"{step.name}.log"
        if step.name not in by_name or not log.exists():
            continue
        lines += ["", f"### {step.name}", ""]
        if summary.exists():
            lines.append(summary.read_text(encoding="utf-8").rstrip())
        else:
            lines += ["```", *_lines(log)[-LAST_LINES:], "```"]
    return "\n".join(lines) + "\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m tests.hardware.first_light",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", default=processor().name, help="default: this host's processor, %(default)s")
    parser.add_argument("--minutes", type=float, default=8.0, help="of wall time, for all steps; default: %(default)s")
    parser.add_argument("--simulate", action="store_true", help="with --device hpu: over the stand-in for Gaudi")
    parser.add_argument("--folder", type=Path, help="for records and logs; default: .genqual/first-light-DEVICE")
    parser.add_argument("--resume", action="store_true", help="keep the steps that have ended, and go on behind them")
    parser.add_argument("--list", action="store_true", help="print the steps in their order, and run nothing")
    parser.add_argument("--write", action="store_true", help="append the section to docs/hardware-runs.md")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
