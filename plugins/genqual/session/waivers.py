"""Known failures: narrow, strict, explained and dated. Reads TOML; knows tests by their ids, devices by their class.

A waiver turns one failing test into WAIVED. It fails the run when it has expired, when its test passes again, and when
it names no test although everything that could be its test was collected and selected.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Final

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from pydantic import AfterValidator, BeforeValidator, Field

from genqual import toml_file
from genqual.cases import case_id_in
from genqual.devices.registry import devices
from genqual.paths import data_dir
from genqual.records.software import versions
from genqual.session.options import Options
from genqual.session.profiles import workload_ids
from genqual.session.record_fields import DISTRIBUTIONS
from genqual.session.selection import Selection
from genqual.toml_file import Listed, TomlTable

_LEAST_DIGITS: Final = 8  # of weights: fewer may be another model's
# `Workload.id` in a test id, with the limit behind it where the test is of one: both are the profile's.
_WORKLOAD: Final = re.compile(r"-(b\d+-i\d+-n\d+)(-\w+=[\w.+-]+)?")


@dataclass(frozen=True, slots=True, eq=False)
class Waiver:
    """One known failure: of `test` (the end of its id), with a message that `says` (a regular expression) is found in.

    `hardware` is a pattern of hardware classes; `versions` a range for each package it is known to fail with; `weights`
    the first digits of the SHA-256 of a model's weights, because an id has only the last word of its path.
    """

    test: str
    says: str
    issue: str
    expires: date
    file: Path
    hardware: str = "*"
    versions: Mapping[str, SpecifierSet] = field(default_factory=dict)
    weights: str = ""

    def names(self, nodeid: str) -> bool:
        """Whether this is the test's waiver; the id may stand below any folder."""
        return nodeid == self.test or nodeid.endswith(f"/{self.test}")

    def in_file_of(self, nodeid: str) -> bool:
        """Whether the test with this id stands in the file that the waiver names."""
        file, own = nodeid.partition("::")[0], self.test.partition("::")[0]
        return file == own or file.endswith(f"/{own}")

    @property
    def workload(self) -> str | None:
        """The id of the workload that its test measures, or None."""
        found = _WORKLOAD.search(self.test)
        return found and found[1]

    def of_other_workload(self, nodeid: str) -> bool:
        """Whether this is its test but for the workload or its limit: other lengths, such as another profile's."""
        rest = _WORKLOAD.sub("", nodeid)
        own = _WORKLOAD.sub("", self.test)
        return self.workload is not None and (rest == own or rest.endswith(f"/{own}"))

    def of_case(self, case: str) -> bool:
        """Whether the test is one of the case with this id."""
        return case_id_in(self.test) == case

    def excuses(self, message: str) -> bool:
        """Whether the failure is the one that is known."""
        return re.search(self.says, message) is not None

    def holds(self, hardware: str, installed: Mapping[str, str]) -> bool:
        """Whether it is meant for this class of hardware and these versions; a package that is missing has none."""
        return fnmatchcase(hardware, self.hardware) and all(
            name in installed and installed[name] in wanted for name, wanted in self.versions.items()
        )

    @property
    def reason(self) -> str:
        """Where the failure is being dealt with, and the last day on which it is excused."""
        return f"{self.issue}, until {self.expires}"

    def expired(self, today: date) -> bool:
        """Whether its last day is over."""
        return today > self.expires

    def __str__(self) -> str:
        return f"{self.file.name}: {self.test} ({self.reason})"


def _one_test(test: str) -> str:
    if "::" not in test or "[" not in test:
        raise ValueError("name one test of one case, FILE::test_name[CASE]")
    return test


def _narrow(says: str) -> str:
    try:
        pattern = re.compile(says)
    except re.error as error:
        raise ValueError(f"not a regular expression ({error})") from None
    if pattern.search(""):
        raise ValueError("is found in every message; quote what is known of the failure")
    return says


def _somewhere(issue: str) -> str:
    if not issue.strip():
        raise ValueError("the issue is empty; say where this failure is being dealt with")
    return issue


def _specifier(wanted: str) -> str:
    try:
        SpecifierSet(wanted)
    except InvalidSpecifier as error:
        raise ValueError(f"{error}; give a range such as >=2.6,<3") from None
    return wanted


def _digits(weights: str) -> str:
    if not re.fullmatch(rf"[0-9a-fA-F]{{{_LEAST_DIGITS},64}}", weights):
        raise ValueError(
            f"give the first {_LEAST_DIGITS} or more hexadecimal digits of the SHA-256 that a record has as "
            "model.weights_sha256"
        )
    return weights.lower()


class _WaiverTable(TomlTable):
    """A `[[waiver]]` as the file has it; `Waiver` says what the keys mean. A tracker's bare number is an issue, too."""

    test: Annotated[str, AfterValidator(_one_test)]
    says: Annotated[str, AfterValidator(_narrow)]
    issue: Annotated[str, BeforeValidator(str), AfterValidator(_somewhere)]
    expires: date
    hardware: str = Field("*", alias="class")
    versions: dict[str, Annotated[str, AfterValidator(_specifier)]] = Field(default_factory=dict)
    weights: Annotated[str, AfterValidator(_digits)] = ""


class _WaiverFile(TomlTable):
    waiver: Listed[_WaiverTable] = ()


def read(path: Path) -> list[Waiver]:
    """The waivers of one device's file; none without a file. Raises BadInput that names entry, key and value."""
    if not path.is_file():
        return []
    return [
        Waiver(
            test=one.test,
            says=one.says,
            issue=one.issue,
            expires=one.expires,
            file=path,
            hardware=one.hardware,
            versions={name: SpecifierSet(wanted) for name, wanted in one.versions.items()},
            weights=one.weights,
        )
        for one in toml_file.read(path, _WaiverFile).waiver
    ]


@dataclass
class Register:
    """The waivers of this run, and what became of each."""

    waivers: list[Waiver]
    today: date
    seen: set[Waiver] = field(default_factory=set)
    collected: set[str] = field(default_factory=set)
    """The id of every test that was collected, of those too that `-m` or another option then left out."""
    tests: dict[tuple[str, str, str], str] = field(default_factory=dict)
    """The node id of the test that gives a metric's verdict, by the ids of case and workload and the metric's name."""

    def collect(self, nodeids: Iterable[str]) -> None:
        """Note tests that were collected, before any of them is left out: a waiver may name each of them."""
        self.collected.update(nodeids)

    def asks(self, case: str, workload: str, metric: str, nodeid: str) -> None:
        """Note which test gives the verdict on a metric; a case and a workload are named by their ids."""
        self.tests[case, workload, metric] = nodeid

    def in_force(self, nodeid: str, weights: Callable[[], str | None]) -> list[Waiver]:
        """The waivers in force of a test, one for each failure that is known of it; an expired one excuses nothing.

        `weights` gives the SHA-256 of the test's model, and is asked where a waiver is for certain weights only.
        """
        named = [one for one in self.waivers if one.names(nodeid)]
        self.seen.update(named)  # of other weights too: it is right for another model of this name
        held = (weights() or "") if any(one.weights for one in named) else ""
        return [one for one in named if held.startswith(one.weights) and not one.expired(self.today)]

    def excuse(self, nodeid: str, message: str, weights: Callable[[], str | None]) -> Waiver | None:
        """The waiver that knows this failure of a test, or None where none in force does; see `in_force`."""
        return next((one for one in self.in_force(nodeid, weights) if one.excuses(message)), None)

    def excuse_metric(
        self, case: str, workload: str, metric: str, message: str | None, weights: Callable[[], str | None]
    ) -> str | None:
        """Why the test of one metric is WAIVED; None where there is no message, or no such test in this run."""
        nodeid = self.tests.get((case, workload, metric))
        waiver = None if nodeid is None or message is None else self.excuse(nodeid, message, weights)
        return None if waiver is None else waiver.reason

    def problems(
        self,
        *,
        whole: Collection[str],
        selected: Collection[str] | None = None,
        workloads: Collection[str] | None = None,
    ) -> list[str]:
        """Why the run fails: what has expired, and what names no test of the cases that were run as a `whole`, by id.

        Another profile has other cases; a waiver of those is no mistake. Neither is one whose test may be among what
        was collected and is not among the `selected` tests (None: all were), nor one of another workload, unless no
        profile has that: `workloads` are the ids of all that there are (None: unknown, options or a file changed them).
        """
        left_out = set() if selected is None else self.collected.difference(selected)
        found = [
            f"the waiver {one} has expired: mend the failure, or renew it with a reason"
            for one in self.waivers
            if one.expired(self.today)
        ]
        found += [
            f"the waiver {one} matches no test of this run: correct it or remove it"
            for one in self.waivers
            if any(one.of_case(case) for case in whole) and not self._may_name_one(one, left_out, workloads)
        ]
        return found

    def _may_name_one(self, waiver: Waiver, left_out: Collection[str], workloads: Collection[str] | None) -> bool:
        if waiver in self.seen or any(waiver.names(nodeid) for nodeid in self.collected):
            return True
        own = {nodeid for nodeid in self.collected if waiver.in_file_of(nodeid)}
        if own.intersection(left_out) or (left_out and not own):
            return True
        elsewhere = workloads is None or waiver.workload in workloads
        return elsewhere and any(waiver.of_other_workload(nodeid) for nodeid in own)


class Waivers(Register):
    """The waivers of the selected devices, read when collection is over, and closed after the last test."""

    def __init__(self, options: Options, selection: Selection) -> None:
        super().__init__([], date.max)
        self._stale: list[str] = []
        self._options = options
        self._selection = selection

    @property
    def stale(self) -> tuple[str, ...]:
        """What of the waivers fails the run; known once they are closed, of an xdist worker once it has ended."""
        return tuple(self._stale)

    def add_stale(self, problems: Iterable[str]) -> None:
        """Note what fails the run, each once: xdist's workers read the same files."""
        self._stale += [one for one in dict.fromkeys(problems) if one not in self._stale]

    def read(self) -> None:
        """Known failures of the selected devices that hold on this hardware and these versions. Raises BadInput."""
        given = self._options.waivers
        where = Path(given) if given else data_dir("baselines") / "waivers"
        for name in self._selection.devices:
            own = read(where / f"{name}.toml")
            if own and self._selection.presence(name).present:
                class_id, here = devices()[name].identity().class_id, versions(DISTRIBUTIONS)
                self.waivers += [one for one in own if one.holds(class_id, here)]
        self.today = datetime.now(UTC).date()

    def close(self, *, whole: Collection[str], selected: Collection[str]) -> None:
        """Find what is stale: `whole` are cases of which every test was collected, `selected` the tests that ran."""
        workloads = None if self._options.own_workloads else workload_ids(self._options.profile)
        self.add_stale(self.problems(whole=whole, selected=selected, workloads=workloads))
