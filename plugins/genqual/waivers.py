"""Known failures: narrow, strict, explained and dated. Reads TOML; knows tests by their ids, devices by their class.

A waiver turns one failing test into WAIVED. It fails the run when it has expired, when its test passes again, and when
it names a test that a whole run did not have.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import date
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from genqual.errors import BadInput
from genqual.spec import case_id_in

_WANTED: Final = {"test", "says", "issue", "expires"}
_KNOWN: Final = _WANTED | {"class", "versions", "weights"}
_LEAST_DIGITS: Final = 8  # of weights: fewer may be another model's


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

    def expired(self, today: date) -> bool:
        """Whether its last day is over."""
        return today > self.expires

    def __str__(self) -> str:
        return f"{self.file.name}: {self.test} ({self.issue}, until {self.expires})"


def read(path: Path) -> list[Waiver]:
    """The waivers of one device's file; none without a file. Raises BadInput that names entry, key and value."""
    if not path.is_file():
        return []
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: not TOML: {error}") from None
    if set(data) - {"waiver"}:
        raise BadInput(f"{path}: only [[waiver]] tables are known, not {', '.join(sorted(set(data) - {'waiver'}))}")
    return [_waiver(path, number, table) for number, table in enumerate(data.get("waiver", []), start=1)]


def _waiver(path: Path, number: int, table: dict[str, Any]) -> Waiver:
    where = f"{path}, waiver {number}"
    if missing := _WANTED - set(table):
        raise BadInput(f"{where}: {', '.join(sorted(missing))} missing; a waiver needs {', '.join(sorted(_WANTED))}")
    if unknown := set(table) - _KNOWN:
        raise BadInput(f"{where}: unknown {', '.join(sorted(unknown))}; a waiver knows {', '.join(sorted(_KNOWN))}")
    test, says, expires = str(table["test"]), str(table["says"]), table["expires"]
    if "::" not in test or "[" not in test:
        raise BadInput(f"{where}: test = {test!r}: name one test of one case, FILE::test_name[CASE]")
    if type(expires) is not date:
        raise BadInput(f"{where}: expires = {expires!r}: must be a date such as 2027-03-01, without quotes")
    if not str(table["issue"]).strip():
        raise BadInput(f"{where}: issue is empty; say where this failure is being dealt with")
    try:
        pattern = re.compile(says)
    except re.error as error:
        raise BadInput(f"{where}: says = {says!r}: not a regular expression ({error})") from None
    if pattern.search(""):
        raise BadInput(f"{where}: says = {says!r} is found in every message; quote what is known of the failure")
    try:
        versions = {name: SpecifierSet(str(wanted)) for name, wanted in table.get("versions", {}).items()}
    except InvalidSpecifier as error:
        raise BadInput(f"{where}: versions: {error}") from None
    weights = str(table.get("weights", "")).lower()
    if "weights" in table and not re.fullmatch(rf"[0-9a-f]{{{_LEAST_DIGITS},64}}", weights):
        raise BadInput(
            f"{where}: weights = {weights!r}: give the first {_LEAST_DIGITS} or more hexadecimal digits of the SHA-256 "
            "that a record has as model.weights_sha256"
        )
    return Waiver(test, says, str(table["issue"]), expires, path, str(table.get("class", "*")), versions, weights)


@dataclass
class Register:
    """The waivers of this run, and what became of each."""

    waivers: list[Waiver]
    today: date
    used: set[Waiver] = field(default_factory=set)
    seen: set[Waiver] = field(default_factory=set)

    def of(self, nodeid: str, weights: Callable[[], str | None] = lambda: None) -> Waiver | None:
        """The waiver in force of a test; an expired one excuses nothing.

        `weights` gives the SHA-256 of the test's model, and is asked where a waiver is for certain weights only.
        """
        named = [one for one in self.waivers if one.names(nodeid)]
        self.seen.update(named)  # of other weights too: it is right for another model of this name
        held = (weights() or "") if any(one.weights for one in named) else ""
        found = next((one for one in named if held.startswith(one.weights)), None)
        return None if found is None or found.expired(self.today) else found

    def problems(self, *, whole: Collection[str]) -> list[str]:
        """Why the run fails: what has expired, and what names no test of the cases that were run as a `whole`, by id.

        Another profile has other cases; a waiver of those is no mistake.
        """
        found = [f"the waiver {one} has expired: mend the failure, or renew it with a reason" for one in self.waivers
                 if one.expired(self.today)]  # fmt: skip
        found += [f"the waiver {one} names no test of this run: correct it, or remove it" for one in self.waivers
                  if one not in self.seen and any(one.of_case(case) for case in whole)]  # fmt: skip
        return found
