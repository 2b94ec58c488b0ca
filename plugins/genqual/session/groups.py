"""The rank groups of one run: a handle for each case, what their ranks say of themselves, which group comes next."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from genqual.cases import Case, Json
from genqual.devices.base import Placement
from genqual.devices.registry import devices
from genqual.engines.registry import engine
from genqual.errors import GenqualError
from genqual.gate.other_build import build_of
from genqual.models.fresh_prompts import FreshPrompts
from genqual.ranks import group_spec
from genqual.ranks.client import Generator
from genqual.ranks.deadlines import Deadlines
from genqual.ranks.group_spec import GroupPlan
from genqual.ranks.pool import Pool
from genqual.records.fields import GROWING, OF_A_REQUEST
from genqual.session.options import Options


class Groups:
    """Makes the generators of this process. Nothing is started before a generator is asked."""

    def __init__(
        self, options: Options, state: Path, run: str, progress: Callable[[str], None], warn: Callable[[str], None]
    ) -> None:
        """`run` is the run's id, and `state` the directory that its processes share."""
        self._options = options
        self._state = state
        self._run = run
        self._progress = progress
        self._warn = warn
        self._generators: dict[Case, Generator] = {}
        self._others: dict[tuple[Case, str], Generator] = {}
        self._inspections: dict[Case, dict[str, Json]] = {}

    @cached_property
    def pool(self) -> Pool:
        """Live rank groups; room for two, because comparing degrees of tensor parallelism needs two."""
        return Pool(2, progress=self._progress)

    @cached_property
    def logs(self) -> Path:
        """Where ranks write their output; a temporary directory where the state directory cannot be written."""
        wanted = self._state / "logs" / self._run
        try:
            wanted.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            elsewhere = Path(tempfile.mkdtemp(prefix="genqual-logs-"))
            self._warn(f"{wanted} cannot be written ({error.strerror}), so the ranks' logs are in {elsewhere}")
            return elsewhere
        return wanted

    @cached_property
    def prompts(self) -> FreshPrompts:
        """What engines whose cache outlives a request are timed with."""
        return FreshPrompts.of_process(self._options.prompt_seed or self._run)

    def plan(self, case: Case) -> GroupPlan:
        """The group of `case` as this run's options ask for it, where no other process computes at present.

        On several hosts each is taken to be as this one: a rank is bound by its number on its own host.
        """
        return group_spec.plan(
            case,
            self.logs,
            placement=devices()[case.device].place(
                self._options.ranks_per_host(case), case.cores_per_rank, taken=self.taken()
            ),
            options=self._options.of_engine(engine(case.engine).settings),
            launcher=self._options.launcher,
            launcher_arguments=self._options.launcher_arguments if case.ranks > 1 else (),
            hosts=self._options.hosts if case.ranks > 1 else (),
            deadlines=Deadlines(scale=self._options.deadline_scale),
        )

    def taken(self) -> frozenset[str]:
        """The cores and cards that other live processes hold now; stale a moment later."""
        return frozenset(self.pool.leases.taken())

    def generator(self, case: Case) -> Generator:
        """The handle of `case`; its ranks start at the first call."""
        if case not in self._generators:
            self._generators[case] = Generator(self.pool, self.plan(case), self.prompts)
        return self._generators[case]

    def other(self, case: Case, build_name: str) -> Generator:
        """The same case in the ranks of another build: a commit, a wheel or an environment."""
        if (case, build_name) not in self._others:
            build = build_of(build_name, self._state / "builds")
            other = replace(self.plan(case), python=build.python, path=build.path, former_names=build.former_names)
            self._others[case, build_name] = Generator(self.pool, other, self.prompts)
        return self._others[case, build_name]

    def begin(self, case: Case, beside: Case) -> None:
        """Start the processes of a case that is judged soon, on a core that `beside`, judged now, leaves idle.

        Does nothing where there is none. What fails is told when the case is asked for.
        """
        if self._options.hosts:  # which cores are idle on other hosts is not known
            return
        device, busy = devices()[case.device], frozenset(self.generator(beside).plan.placement.lease)
        spare = Placement(env=())
        with contextlib.suppress(GenqualError, OSError):
            if device.torch_device == "cpu":
                # As many cores as a rank will have: OpenMP counts them once, and waits otherwise where they are few.
                spare = device.place(1, max(1, case.cores_per_rank), taken=self.taken() | busy)
            if not busy & set(spare.lease):
                self.pool.begin(self.generator(case).plan, spare)

    def inspection(self, case: Case) -> dict[str, Json]:
        """What rank 0 says really runs, for a verdict: asked once a case, of ranks that have computed.

        It is told without counts and without what the last request was: with them two records of one engine would
        differ by the order of the tests.
        """
        if case not in self._inspections:
            found = self.generator(case).inspect_used()[0]
            passing = GROWING | OF_A_REQUEST
            self._inspections[case] = {name: value for name, value in found.items() if name not in passing}
        return self._inspections[case]

    def close(self) -> None:
        """End every rank of this process. Harmless twice."""
        if "pool" in self.__dict__:
            self.pool.close_all()


def ran(generator: Generator) -> dict[str, Json]:
    """For a measurement that has just ended: what ran in it, without what the ranks count since loading."""
    return {name: value for name, value in generator.inspect()[0].items() if name not in GROWING}


def ran_if_alive(pool: Pool, generator: Generator) -> dict[str, Json]:
    """As `ran`, and nothing where the ranks have ended or never loaded: none is started to be asked."""
    return ran(generator) if pool.live(generator.plan) is not None else {}


@dataclass(frozen=True, slots=True)
class PlannedTest:
    """One test: the case it is of, and whether it is timed: all but conformance counts as timed."""

    case: Case
    timed: bool = False


def upcoming(steps: Sequence[PlannedTest]) -> list[Case | None]:
    """For each test the case whose group is begun before it: beside the second test of a case, the case after it.

    Beside the first its own group is starting. Nothing is begun beside what is timed, nor for a case that is timed
    later: how long its group took to load is measured, too.
    """
    timed = {step.case for step in steps if step.timed}
    found: list[Case | None] = [None] * len(steps)
    following: Case | None = None
    for at in range(len(steps) - 1, -1, -1):
        step = steps[at]
        first = at == 0 or steps[at - 1].case != step.case
        second = not first and (at == 1 or steps[at - 2].case != step.case)
        if not step.timed and second:
            found[at] = following
        if step.timed:
            following = None
        elif first:
            following = None if step.case in timed else step.case
    return found
