"""The checks of `genqual node` as test items: which there are, and what one verdict makes of an item.

The list is `health.levels.CHECKS`. Each item runs one check within its own window of counters, so the order of items
and what else is selected change no outcome.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import pytest

from genqual import __version__
from genqual.devices.files import read
from genqual.devices.registry import device as device_called
from genqual.devices.registry import devices
from genqual.errors import BadInput
from genqual.health import levels
from genqual.health.checks.base import Check, Node
from genqual.health.finding import NodeVerdict, Outcome
from genqual.health.run_state import RunState
from genqual.session.markers import named
from genqual.session.record_fields import names
from genqual.session.selection import Selection

FIXTURE: Final = "node_check"


@dataclass(frozen=True, slots=True)
class NodeCheck:
    """One check on one device of this host."""

    device: str
    check: Check


def items(selection: Selection) -> list[Any]:
    """A parameter for each selected processor and check. Cards are for `genqual node`: a run's groups may hold them."""
    return [
        pytest.param(NodeCheck(name, check), marks=getattr(pytest.mark, name), id=f"{name}-{check.name}")
        for name in selection.devices
        if devices()[name].torch_device == "cpu"
        for check in levels.CHECKS
    ]


def wanted(selection: Selection) -> bool:
    """Whether checks of the node were asked for, by `-m` or `--level`: they take all cores for minutes."""
    return selection.options.level is not None or bool(named(selection.markexpr, ["qualification"]))


def run(
    asked: NodeCheck, level_name: str | None, work: Path, say: Callable[[str], None], state: Path, *, resume: bool
) -> NodeVerdict:
    """The verdict of one check, with the seconds that the level gives it among all checks.

    `state` is where findings are kept until the whole run has ended; with `resume` those of an interrupted run count.
    Waits for another check of this user on this host: two at once would disturb each other. Raises BadInput after an
    hour of it, and where what `state` holds is of another run.
    """
    name = _level(level_name)
    whole = levels.Level(name, levels.SECONDS[name])
    fitting = whole.fitting(levels.CHECKS)
    shares = dict(zip([one.name for one in fitting], whole.shares(fitting), strict=True))
    cores = tuple(sorted(os.sched_getaffinity(0)))
    same = _same(asked.device, name)
    file = unfinished(state) / f"{asked.device}-{asked.check.name}.json"
    with levels.alone(wait_s=3600.0):
        return levels.run(
            Node(asked.device, cores, work, say=say),
            levels.Level(name, shares.get(asked.check.name, 0.0)),
            name=names().name(platform.node()),
            hardware_class=same["class"],
            checks=[asked.check],
            state=RunState(file, same, resume=resume and file.exists()),
        )


def _level(name: str | None) -> str:
    return name or "1"


def _same(device: str, level: str) -> dict[str, str]:
    """What two runs must have in common for one to go on with what the other found."""
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    boot = read(Path("/proc/sys/kernel/random/boot_id")) or ""
    hardware_class = device_called(device).identity().class_id
    known = {"version": __version__, "level": level, "device": device, "class": hardware_class}
    return {**known, "cores": cores, "boot": boot}


def unfinished(state: Path) -> Path:
    """Where a run keeps what its checks found until it has ended, below its state directory."""
    return state / "node" / "unfinished"


def begin(selection: Selection, state: Path) -> None:
    """Forget an older run that was interrupted, unless it is to be resumed.

    Raises BadInput where there is none, and where it was another one: what it found stays for the right command.
    """
    if not selection.options.resume:
        shutil.rmtree(unfinished(state), ignore_errors=True)
        try:  # made now, so that a kill before the first check can be resumed
            unfinished(state).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(f"--state-dir {state}: cannot be written ({error.strerror})") from None
    elif not unfinished(state).is_dir():
        raise BadInput(f"--resume: no run of the node's checks was interrupted in {state}; leave --resume out")
    else:
        for file in unfinished(state).glob("*.json"):
            same = _same(file.name.partition("-")[0], _level(selection.options.level))
            RunState(file, same, resume=True).check()


def end(selection: Selection, state: Path) -> None:
    """The verdicts are out: nothing is left to resume."""
    if wanted(selection):
        shutil.rmtree(unfinished(state), ignore_errors=True)


def outcome(verdict: NodeVerdict, check: str) -> tuple[Literal["pass", "fail", "not_applicable"], str]:
    """What an item of `check` ends with, and why. Passed: the check itself gave a signal, and nothing speaks against.

    An optional check that this host has no means for is not applicable.
    """
    if verdict.verdict == "unfit":
        return "fail", "\n".join(verdict.reasons)
    own = [one for one in verdict.findings if one.check == check]
    if any(one.outcome in (Outcome.OK, Outcome.ALLOWED) for one in own):
        return "pass", "; ".join(one.evidence for one in own)
    return "not_applicable", "; ".join(one.evidence for one in own) or "the check gave no finding"
