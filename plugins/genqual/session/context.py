"""One run of the suite, as its tests share it: who makes groups, references and records. It holds them, no more."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import pytest

from genqual.cases import Case
from genqual.session.benchmark import Benchmarks, Measuring
from genqual.session.failure_message import Causes
from genqual.session.gate_inputs import GateInputs, judging_of, keeping
from genqual.session.groups import Groups
from genqual.session.options import Options
from genqual.session.oracles import Oracles
from genqual.session.reference_store import ReferenceStore
from genqual.session.run_records import RunRecords
from genqual.session.selection import Selection
from genqual.session.timed_accuracy import TimedAccuracy
from genqual.session.waivers import Waivers


class Run:
    """What the tests of one process share. Nothing is started or read before a test asks."""

    def __init__(
        self, options: Options, selection: Selection, identifier: str, progress: Callable[[str], None]
    ) -> None:
        self.options = options
        self.selection = selection
        self.id = identifier
        self.progress = progress
        self.state = Path(options.state_dir).absolute()
        self.causes = Causes()
        self.waivers = Waivers(options, selection)
        self.gate = GateInputs(options, selection, self.waivers)
        self.groups = Groups(options, self.state, identifier, progress, self.warn)
        self._warnings: list[str] = []

    @classmethod
    def of(cls, config: pytest.Config, selection: Selection) -> Run:
        """The run of this pytest process; an xdist worker belongs to its controller's run."""
        given = getattr(config, "workerinput", {}).get("genqual_run")
        return cls(Options.of(config), selection, given or secrets.token_hex(8), _progress_of(config))

    def warn(self, text: str) -> None:
        """Say a line at the end of the run."""
        self._warnings.append(text)

    @property
    def warnings(self) -> tuple[str, ...]:
        """The lines that `warn` was given."""
        return tuple(self._warnings)

    @cached_property
    def references(self) -> ReferenceStore:
        """What models are judged by: references and oracles."""
        return ReferenceStore(self.options.references, Oracles(self.progress, self.groups.taken))

    @cached_property
    def records(self) -> RunRecords:
        """What this run recorded."""
        return RunRecords(self.state, self.id, self.warn, lambda model: self.references.weights_sha256(model))

    @cached_property
    def accuracy(self) -> TimedAccuracy:
        """Whether the answers of timed paths are right."""
        return TimedAccuracy(self.groups.generator, self.references.reference, self.references.oracle)

    @cached_property
    def measuring(self) -> Measuring:
        """What the performance items share, before anything is judged."""
        return Measuring(self.selection.profile.repetitions, self.progress, self.selection.profile.protocol)

    @cached_property
    def benchmarks(self) -> Benchmarks:
        """What the performance items ask for: measurements, judged and recorded."""
        why_not_right, recorder = self.accuracy.why_not_right, self.records.recorder
        keep = keeping(self.state, self.id, self.warn)
        judging = judging_of(self.options, self.gate.question, self.progress, why_not_right, self.groups.other, keep)
        return Benchmarks(self.groups, self.references, recorder, self.gate, self.measuring, judging, self.accuracy)

    def gate_at_most_s(self, case: Case, metric: str) -> float | None:
        """Seconds of the most launches that the gate makes of a case, by those that it made; None before the first."""
        # Where nothing was measured there is no gate yet, and none is made for this.
        return self.benchmarks.judging.at_most_s(case, metric) if "benchmarks" in self.__dict__ else None

    def wrong(self, case: Case) -> None:
        """A test judged `case`, and it failed: what was timed of it, before or after, is of wrong answers."""
        self.accuracy.wrong(case)
        if "benchmarks" in self.__dict__:
            self.benchmarks.now_wrong(case)

    def close(self) -> None:
        """End every rank of this process. Harmless twice."""
        if "references" in self.__dict__:
            self.references.close()
        self.groups.close()


RUN = pytest.StashKey[Run]()


def _progress_of(config: pytest.Config) -> Callable[[str], None]:
    """A line on the terminal for long steps; nothing where output is no terminal, or pytest is quiet."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")

    def show(text: str) -> None:
        terminal = reporter or config.pluginmanager.get_plugin("terminalreporter")
        capture = config.pluginmanager.get_plugin("capturemanager")
        if terminal is None or capture is None or not terminal.isatty or config.option.verbose < 0:
            return
        with capture.global_and_fixture_disabled():
            terminal.write_line(f"  genqual: {text}", cyan=True)

    return show
