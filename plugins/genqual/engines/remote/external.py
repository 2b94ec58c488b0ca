"""The `external` engine: a third party's program, spoken to in JSON lines. No torch. The protocol: docs/engines.md.

One line is one JSON object. The program is asked by standard input and answers on standard output; what it writes to
standard error stands in the rank's log. It ends when its standard input does.
"""

from __future__ import annotations

import json
import math
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from typing import Any, Final

import numpy as np
import psutil

from genqual.cases import Json
from genqual.engines.base import Generated, Loaded, LoadRequest, Memory, TokenBatch
from genqual.engines.remote.base import TokensOnly, checked, checked_top
from genqual.errors import BadInput, EngineFailed, Unsupported
from genqual.models import weights

PROTOCOL: Final = 1
_WORDS: Final = 2000  # of the program's last words, in an error


class External(TokensOnly):
    """Option `command`: the program and its arguments, split as a shell would, run without one."""

    def load(self, request: LoadRequest) -> Loaded:
        self.request = request
        command = shlex.split(str(request.options.get("command") or ""))
        if not command:
            raise BadInput("external needs --engine-command COMMAND, the program to qualify")
        self._known = self.loaded()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the program writes to it
        pipe = subprocess.PIPE
        try:
            self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self._errors, text=True, bufsize=1)
        except OSError as error:
            # The search for a program ends with "Permission denied" where one directory of PATH cannot be read.
            why = (
                error.strerror
                if shutil.which(command[0]) or "/" in command[0]
                else "No such file on PATH that may be run"
            )
            raise BadInput(f"--engine-command {command[0]}: cannot be started ({why})") from error
        self.model = self
        self._own_clock = False
        start = time.perf_counter()
        self.say(
            method="load",
            protocol=PROTOCOL,
            model=str(weights.directory(request.model)),
            dtype=request.dtype,
            device=request.device,
            threads=request.threads,
        )
        told = self.hear("load")
        if told.get("unsupported"):
            raise Unsupported(f"{command[0]}: {told['unsupported']}")
        if told.get("protocol") != PROTOCOL or "method" in told:
            raise EngineFailed(
                f"{command[0]} answered `load` with {_short(told)}; wanted is an object with protocol {PROTOCOL}"
            )
        self._says = {str(k): v for k, v in told.items() if isinstance(v, str | int | float | bool)}
        self._gives_top = type(told.get("top")) is int
        size = {key: value for key in ("weight_bytes", "parameters") if type(value := told.get(key)) is int}
        return self.loaded(load_s=time.perf_counter() - start, **size)

    def generate(self, batch: TokenBatch, new_tokens: int) -> Generated:
        """A line a step. A step's time is its line's arrival, or what the program says, where that can be."""
        return self._generate(batch, new_tokens)

    def generate_top(self, batch: TokenBatch, new_tokens: int, best: int) -> Generated:
        """The same; a program that said that it can is asked for the `best` log-probabilities of each step.

        Not in timed runs: they would pay for it. Who sends them unasked is heard all the same.
        """
        return self._generate(batch, new_tokens, **({"top": best} if self._gives_top else {}))

    def _generate(self, batch: TokenBatch, new_tokens: int, **more: int) -> Generated:
        child = psutil.Process(self.process.pid)
        cpu, start = _cpu(child), time.perf_counter()
        self.say(method="generate", prompts=batch.rows, new_tokens=new_tokens, **more)
        steps: list[list[int]] = []
        arrived, said, top = [], [], []
        for step in range(new_tokens):
            line = self.hear("generate")
            arrived.append(time.perf_counter() - start)
            tokens = line.get("tokens")
            if not isinstance(tokens, list) or len(tokens) != len(batch.rows):
                raise EngineFailed(
                    f"external: step {step} answered {_short(line)}; wanted is tokens, one a row, {len(batch.rows)}"
                )
            steps.append(tokens)
            said.append(line.get("s"))
            top.append(line.get("top"))
        wall, cpu = time.perf_counter() - start, _cpu(child) - cpu
        rows = [[step[row] for step in steps] for row in range(len(batch.rows))]
        found = checked(rows, new_tokens, self._known.vocabulary, "the program")
        best, logprobs = checked_top(top, len(rows), self._known.vocabulary, "the program")
        times = self._times(said, arrived)
        return Generated(found, times, wall_s=wall, cpu_s=cpu, top_ids=best, top_logprobs=logprobs)

    def _times(self, said: list[Any], arrived: list[float]) -> Any:
        """The program's own seconds, where every step has them; never later than the line that told them."""
        self._own_clock = all(one is not None for one in said)
        if not self._own_clock:
            return np.array(arrived)
        last = 0.0
        for step, (own, seen) in enumerate(zip(said, arrived, strict=True)):
            if not isinstance(own, int | float) or not math.isfinite(own) or not last < own <= seen:
                raise EngineFailed(
                    f"external: step {step} says it was done after {own!r} s; the step before it after {last:.6g} s, "
                    f"and its line arrived after {seen:.6g} s: a time lies between the two"
                )
            last = float(own)
        return np.array(said, dtype=np.float64)

    def memory(self, *, reset: bool = False, trim: bool = False) -> Memory:
        """Of the program and what it started: what is resident now, which is no peak."""
        child = psutil.Process(self.process.pid)
        held = sum(one.memory_info().rss for one in (child, *child.children(recursive=True)))
        return Memory(peak=held, current=held, source="resident set of the program's processes, after the run")

    def inspect(self) -> dict[str, Json]:
        clock = "the program's own clock" if self._own_clock else "arrival of each line"
        return {"engine": "external", "tier": "tokens", "times": clock, "says": dict(self._says)}

    def say(self, **what: Any) -> None:
        """Send one line. Raises EngineFailed when the program has ended."""
        if self.process.stdin is None:
            raise EngineFailed("external: the program was started without an input")
        try:
            self.process.stdin.write(json.dumps(what) + "\n")
            self.process.stdin.flush()
        except OSError:
            self._ended(str(what["method"]))

    def hear(self, method: str) -> dict[str, Any]:
        """Wait for one line. Raises EngineFailed when it is no JSON object, or the program ended, with its words."""
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            self._ended(method)
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise EngineFailed(
                f"external: the answer to `{method}` is no JSON object: {_short(line)}. Standard output belongs to the "
                "protocol; print to standard error"
            )
        if "error" in found:
            raise EngineFailed(f"external: `{method}` failed, the program says: {_short(found['error'])}")
        return found

    def _ended(self, method: str) -> None:
        try:
            code: int | None = self.process.wait(5)
        except subprocess.TimeoutExpired:
            code = None
        self._errors.seek(0)
        words = self._errors.read().decode(errors="replace").strip()
        sys.stderr.write(words)
        how = "closed its output" if code is None else f"ended with code {code}"
        last = f"; its last words: {words[-_WORDS:]}" if words else ""
        raise EngineFailed(f"external: the program {how} during `{method}`{last}")


def _cpu(process: psutil.Process) -> float:
    """CPU seconds of a process and of its children that are alive."""
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return float(sum(one.user + one.system for one in times))


def _short(what: object) -> str:
    text = " ".join(str(what).split())
    return text if len(text) <= 300 else text[:300] + "..."
