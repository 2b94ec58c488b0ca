"""Which devices, cases and added suites a run is about. Devices are probed here, once each; nothing is initialised."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import Final

import pytest

from genqual.cases import Case, Workload, distinct_names
from genqual.devices.base import Presence
from genqual.devices.registry import devices
from genqual.errors import BadInput, GenqualError, did_you_mean
from genqual.session import profiles
from genqual.session.markers import named
from genqual.session.options import Options
from genqual.session.profile_file import NATIVE
from genqual.session.profiles import Plan, Profile

SUITES: Final = "genqual.suites"
"""The entry points of other packages' tests, and the package of ours."""


@dataclass
class Selection:
    """The devices named or present, and the cases of each suite on them. Filled on first use."""

    options: Options
    markexpr: str
    error: GenqualError | None = None  # raised as a usage error when collection is over, see plugin.py
    _presence: dict[str, Presence] = field(default_factory=dict)
    _profile: Profile | None = None
    _plans: dict[str, Plan] = field(default_factory=dict)

    def presence(self, device: str) -> Presence:
        """What the device's probe found; looked up once a run."""
        if device not in self._presence:
            self._presence[device] = devices()[device].probe()
        return self._presence[device]

    @property
    def probed(self) -> dict[str, Presence]:
        """What the probes found, of those devices that anything asked for."""
        return dict(self._presence)

    @property
    def named(self) -> frozenset[str]:
        """The devices that `-m` asks for."""
        return named(self.markexpr, devices())

    def mistaken_mark(self, marks: Iterable[str]) -> str:
        """What to say where `-m` asks for a mark that is none of `marks`, or nothing."""
        known = {*marks, *devices()}
        for name in re.findall(r"[^\W\d]\w*", re.sub(r"\([^()]*=[^()]*\)", "", self.markexpr)):
            if name not in known and name not in ("and", "or", "not", "True", "False"):
                near = did_you_mean(name, known)
                return (
                    f"-m {name}: no mark is called so.{near} Devices are {', '.join(devices())}; `--markers` lists all"
                )
        return ""

    @property
    def devices(self) -> list[str]:
        """The devices to make cases for: those that `-m` names, else those that are present."""
        asked = self.named
        return [name for name in devices() if name in asked or (not asked and self.presence(name).present)]

    @property
    def profile(self) -> Profile:
        """The profile, read once. Raises BadInput."""
        if self._profile is None:
            found = profiles.load(self.options.profile)
            self._profile = found.miniature() if self.options.miniature else found
        return self._profile

    def plan(self, suite: str) -> Plan:
        """The cases of `suite` (conformance, performance) on every selected device; ranks are checked where present."""
        if suite not in self._plans:
            rows = self.profile.performance if suite == "performance" else self.profile.conformance
            cores = self.options.cores_per_rank or self.profile.cores_per_rank
            plans = [
                profiles.plan(
                    rows, self.options, device=name, cores_per_rank=cores, native=devices()[name].native_dtype
                )
                for name in self.devices
            ]
            cases = tuple(self._named(case) for plan in plans for case in plan.cases)
            self._check_places(cases)
            left_out = tuple((self._named(case), why) for plan in plans for case, why in plan.left_out)
            self._plans[suite] = Plan(cases, left_out)
        return self._plans[suite]

    def _named(self, case: Case) -> Case:
        """The case by an id that no other model of this run has, in either suite."""
        rows = (*self.profile.conformance, *self.profile.performance)
        models = set(self.options.models) or {model for row in rows for model in row.models}
        shown = distinct_names(models).get(case.model, "")
        return replace(case, shown=shown) if shown else case

    def without_bf16(self) -> list[str]:
        """The present devices on which a row that says `native` runs in another dtype than bf16, where one does."""
        if self.error is not None:
            return []
        rows = (*self.profile.conformance, *(self.profile.performance if self.options.benchmark else ()))
        if self.options.dtypes or not any(NATIVE in row.dtypes for row in rows):
            return []
        return [name for name in self.devices if self.presence(name).present and devices()[name].native_dtype != "bf16"]

    def workloads(self) -> list[Workload]:
        """What the performance suites ask of each case."""
        return self.profile.workloads(self.options)

    def _check_places(self, cases: Iterable[Case]) -> None:
        for case in cases:
            if self.presence(case.device).present:
                devices()[case.device].place(self.options.ranks_per_host(case), case.cores_per_rank)


def add_suites(config: pytest.Config) -> None:
    """Collect the tests of other packages too, where a whole run was asked for.

    That is where no path was given, or `--pyargs genqual.suites`. Imports none of them.
    Raises BadInput where an entry point names a module that is not there.
    """
    if config.args_source is not pytest.Config.ArgsSource.TESTPATHS and SUITES not in config.args:
        return
    for point in sorted(entry_points(group=SUITES), key=lambda one: one.name):
        try:
            spec = find_spec(point.value)
        except ImportError as error:
            raise BadInput(f"suite {point.name} ({point.value}): {error}; uninstall that package") from error
        if spec is None or spec.origin is None:
            raise BadInput(f"suite {point.name} ({point.value}): no such module; uninstall that package")
        if spec.origin not in config.args:
            config.args.append(spec.origin)
