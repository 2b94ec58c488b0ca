"""A pytest plugin for `genqual faults matrix`: the real suite, run once for every fault, on groups that stay alive.

Not loaded by ordinary runs. Each test gets a parameter `fault`; a fault is switched on in the live group before the
first of its tests and off after the last, and the weights are hashed then.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from genqual import digest
from genqual.cases import Case
from genqual.conformance.judges.free_run import ByOracle
from genqual.conformance.references.make import Reference
from genqual.devices.registry import device
from genqual.engines.base import TokenBatch
from genqual.engines.registry import engine
from genqual.errors import BadInput, GenqualError, Unsupported
from genqual.faults import CATALOGUE, Fault
from genqual.faults.fault import SHIPPED
from genqual.faults.matrix import tiers
from genqual.faults.matrix.other_rules import RULES, alarms
from genqual.faults.matrix.store import FAULT_FREE, MatrixCell, Outcome, Store, key_of
from genqual.models.catalogue import FETCHABLE
from genqual.models.identity import identity
from genqual.models.registry import resolve
from genqual.ranks.errors import GroupLost
from genqual.session import fingerprint, markers
from genqual.session import outcome as told
from genqual.session.context import RUN

STORE: Final = pytest.StashKey[Store]()
STAGE: Final = pytest.StashKey["Stage"]()
LEFT_OUT: Final = pytest.StashKey[bool]()  # another check has found this fault, and that was all that was asked
BROKEN: Final = pytest.StashKey[str]()  # why the fault of this test could not be put in, where that was a breakdown

# Each starts a process: only for faults that a process can make a difference to.
FRESH: Final = "test_a_fresh_process_gives_the_same_bits"
# To the bit beside another group, which has no fault in it: a control changes numbers, if none that matters.
BESIDE: Final = {"test_a_split_over_devices_gives_the_same_bits", "test_offloaded_weights_give_the_same_bits"}
# With `--faults-until-found` these come first: of the faults that anything found, few escaped them.
LIKELIEST: Final = (
    "test_logits_match_the_oracle",
    "test_drift_is_that_of_the_dtype",
    "test_free_run_follows_the_oracle",
    "test_requests_of_different_shapes",
    "test_cache_equals_no_cache",
)
UNDOING: Final = "taking the fault out"
HASHES: Final = "test_weights_stay_as_they_were_loaded"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare what the command passes on."""
    parser.addoption("--faults-store", required=True, help="JSON lines of the cells judged so far")
    parser.addoption("--faults", required=True, help="names of faults, with commas between; honest is one")
    parser.addoption("--faults-until-found", action="store_true", help="leave out the checks of a fault that was found")


def pytest_configure(config: pytest.Config) -> None:
    """Read what was judged before."""
    config.stash[STORE] = Store(Path(config.getoption("--faults-store")))
    config.stash[STAGE] = Stage(config)


class Stage:
    """Which fault is in which case's group now, and what a case is on this machine, today."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._now: tuple[Case, str] | None = None
        self._subjects: dict[Case, str] = {}
        self._hardware: dict[str, str] = {}
        self._block = contextlib.ExitStack()

    def hardware(self, case: Case) -> str:
        """The class of the device that is here; empty where it is absent."""
        if case.device not in self._hardware:
            found = device(case.device)
            self._hardware[case.device] = found.identity().class_id if found.probe().present else ""
        return self._hardware[case.device]

    def judged(self, case: Case, name: str, check: str) -> bool:
        """Whether the store has this cell, of what is here now."""
        return self._config.stash[STORE].judged(key_of(case, name, check), self.hardware(case), self.subject(case))

    def cell(self, case: Case, name: str, check: str, outcome: Any, why: str) -> MatrixCell:
        """One cell of `case`, on the hardware that is here."""
        key = (case.engine, case.ranks, case.model, case.dtype, name, check, outcome, why)
        return MatrixCell(*key, self.hardware(case), case.cores_per_rank, self.subject(case))

    def subject(self, case: Case) -> str:
        """What the names of `case` stand for now: the files of a model at a path, another's engine or program.

        Empty where they say all that a released genqual has: its own engines and models, whose matrix is resumed.
        """
        if case not in self._subjects:
            spec, known = resolve(case.model), engine(case.engine)
            facts: dict[str, Any] = fingerprint.told_of(self._config.stash[RUN].options.of_engine(known.settings))
            if spec.source != "embedded" and case.model not in FETCHABLE:
                facts["model"] = identity(spec)
            if case.engine.partition(":")[0] not in SHIPPED:
                facts["code"] = fingerprint.code_sha256(case.engine)
            self._subjects[case] = digest.of_json(facts) if facts else ""
        return self._subjects[case]

    def found(self, case: Case, name: str) -> bool:
        """Whether a property of the suite has found the fault `name` in this case, and nothing else is asked."""
        if name == FAULT_FREE or CATALOGUE[name].equivalent or not self._config.getoption("--faults-until-found"):
            return False
        return self._config.stash[STORE].found(case, name)

    def enter(self, item: pytest.Item, case: Case, name: str) -> bool:
        """Put `name` into the group of `case`, and take out what was there; False where that had been done."""
        if self._now == (case, name):
            return False
        self.leave(item.config.stash[STORE])
        if name != FAULT_FREE:
            known = CATALOGUE[name]
            generator = item.config.stash[RUN].groups.generator(case)
            self._block.enter_context(generator.with_fault(known.entry, known.params))
        # Not before: where a fault cannot be put in, the next test must try again, and not pass for want of it.
        self._now = (case, name)
        return True

    def leave(self, store: Store) -> None:
        """Take the fault out; the weights are what they were, or the group ends. What fails then is an error of it."""
        before, self._now = self._now, None
        try:
            self._block.close()
        except (Exception, GroupLost) as error:
            if before is None:
                raise
            store.add(self.cell(*before, UNDOING, "error", blame(error)))


@pytest.hookimpl(trylast=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give every test of conformance each fault in turn."""
    marks = {mark.name for mark in metafunc.definition.iter_markers()}
    if "conformance" in marks and "case" in metafunc.fixturenames:
        metafunc.fixturenames.append("fault_name")
        names = metafunc.config.getoption("--faults").split(",")
        metafunc.parametrize("fault_name", names, ids=[f"fault={name}" for name in names], scope="function")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what was judged and what does not fit; then order by case, by fault, and as the suite is written."""
    stage = config.stash[STAGE]
    names = config.getoption("--faults").split(",")
    kept: list[pytest.Item] = []
    left: list[pytest.Item] = []
    for item in items:
        case, name = of(item)
        wanted = case is not None and fits(case, name, item) and not stage.judged(case, name, check_of(item))
        wanted = wanted and not (case is not None and stage.found(case, name))
        (kept if wanted else left).append(item)
    cases = list(dict.fromkeys(of(item)[0] for item in kept))
    quick = config.getoption("--faults-until-found")
    kept.sort(key=lambda item: (cases.index(of(item)[0]), names.index(of(item)[1]), turn(item) if quick else 0))
    items[:] = kept
    if left:
        config.hook.pytest_deselected(items=left)


def turn(item: pytest.Item) -> int:
    """Where a test stands when one that finds the fault is enough."""
    test = item.originalname  # type: ignore[attr-defined]
    return LIKELIEST.index(test) if test in LIKELIEST else len(LIKELIEST)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave out what is not asked once the fault is found; no cell says anything of it."""
    case, name = of(item)
    if case is not None and item.config.stash[STAGE].found(case, name):
        item.stash[LEFT_OUT] = True
        pytest.skip("the fault is found")


def of(item: pytest.Item) -> tuple[Case | None, str]:
    """The case and the fault of an item."""
    params: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    return params.get("case"), str(params.get("fault_name", FAULT_FREE))


def check_of(item: pytest.Item) -> str:
    """The test and its own parameters, without case and fault: `test_bucket_edges[edge=32]`."""
    params = {k: v for k, v in item.callspec.params.items() if k not in ("case", "fault_name")}  # type: ignore[attr-defined]
    said = ",".join(f"{name}={value}" for name, value in params.items())
    return f"{item.originalname}[{said}]" if said else str(item.originalname)  # type: ignore[attr-defined]


def fits(case: Case, name: str, item: pytest.Item) -> bool:
    """Whether the fault can be put there, and whether the test has anything to say about it."""
    test = item.originalname  # type: ignore[attr-defined]
    if name == FAULT_FREE:
        return True
    known = CATALOGUE[name]
    if test == FRESH and known.group != "from request to request":
        return False  # it compares with the pass that loading ended with, before any fault is put in
    if test in BESIDE and known.equivalent:
        return False
    if test == HASHES and known.kind == "weights":
        return False  # what finds it there would be our own injection
    return fits_case(known, case)


def fits_case(known: Fault, case: Case) -> bool:
    """Whether the fault can be put into this case."""
    architecture = resolve(case.model).architecture
    return known.kind != "rank" and known.fits(
        engine=case.engine, architecture=architecture, ranks=case.ranks, dtype=case.dtype
    )


@pytest.fixture(autouse=True)
def broken(request: pytest.FixtureRequest) -> str:
    """The fault in the group while this test runs."""
    item = request.node
    case, name = of(item)
    if case is None:
        return FAULT_FREE
    store, stage = item.config.stash[STORE], item.config.stash[STAGE]
    try:
        entered = stage.enter(item, case, name)
    except (BadInput, Unsupported):
        raise  # the fault does not fit here, and says why: not judged
    except (Exception, GroupLost) as error:
        item.stash[BROKEN] = blame(error)
        raise
    if entered:
        progress(item, case, name)
        if request.config.getoption("--faults-until-found"):
            return name  # what others' rules find is not asked
        for check, outcome, why in rules(item, case):
            store.add(stage.cell(case, name, check, outcome, why))
    return name


def progress(item: pytest.Item, case: Case, name: str) -> None:
    """Say on stderr which fault is judged now, of how many that are left: a case takes a quarter of an hour."""
    left = list(dict.fromkeys(fault for other, fault in map(of, item.session.items) if other == case))
    place = left.index(name) + 1
    with item.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        sys.stderr.write(f"  {place} of {len(left)}: {name}\n")


def rules(item: pytest.Item, case: Case) -> Iterator[tuple[str, Any, str]]:
    """What the rules of others, and our own judges with less evidence, say of this group as it is now."""
    run = item.config.stash[RUN]
    reference, generator = run.references.reference(case.model), run.groups.generator(case)
    if not isinstance(reference, Reference) or generator.plan.tier == "tokens":
        return  # these rules are shown logits
    batch = TokenBatch.of(reference.prompts)
    try:
        tokens = generator.generate(batch, reference.steps).tokens
        own = generator.score(batch, tokens)
        forced = generator.score(batch, reference.forced, logits=True)
        said = alarms(tokens, own, forced, reference, run.references.exact_logits(case.model))
    except (GenqualError, GroupLost) as error:
        outcome = "not judged" if isinstance(error, Unsupported) else "alarm" if _meant(of(item)[1]) else "error"
        yield from ((check, outcome, blame(error)) for check in (*RULES, *tiers.TIERS))
        return
    for rule, (alarm, why) in said.items():
        yield rule, "alarm" if alarm else "pass", why
    known, by = run.references.exact_logits(case.model), ByOracle(lambda: run.references.oracle(case.model))
    yield from tiers.alarms(tokens, own, reference, case.dtype, by, known)


def outcome_of(report: pytest.TestReport, verdict: str | None, name: str, *, broken: bool) -> Outcome:
    """What a test says of the fault `name`. Only a failed judgement finds it; `broken`: it was not put in.

    An exception finds nothing, whoever raised it, unless the fault is meant to end the group.
    """
    if report.outcome == "failed":
        if report.when == "setup":
            return "error" if broken else "not judged"  # the fault does not fit there
        return "alarm" if verdict == "fail" or _meant(name) else "error"
    if report.outcome == "skipped":
        return "not applicable" if verdict == "not_applicable" else "not judged"
    return "pass"


def _meant(name: str) -> bool:
    return name != FAULT_FREE and CATALOGUE[name].ends_group


def blame(error: BaseException) -> str:
    """An exception in a line: its kind and first words, without the traceback that came from the rank."""
    return f"{type(error).__name__}: {' '.join(str(error).partition(chr(10))[0].split())}"[:300]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Keep the outcome of each test as a cell."""
    report: pytest.TestReport = yield
    case, name = of(item)
    judged = report.when == "call" or (report.when == "setup" and report.outcome != "passed")
    judged = judged and not item.stash.get(LEFT_OUT, False)
    if judged and case is not None and any(mark.name in markers.SUITES for mark in item.iter_markers()):
        broken = item.stash.get(BROKEN, None)
        outcome = outcome_of(report, told.of_item(item).verdict, name, broken=broken is not None)
        # The exception's own words: a report's text has a traceback, with the paths of this machine.
        words = told.of_item(item).failure or (str(call.excinfo.value) if call.excinfo else report.longreprtext)
        why = broken or ("" if report.passed else " ".join(words.split())[:300])
        if outcome in ("alarm", "error") and (issue := _known(item, case, name, " ".join(words.split()))):
            outcome, why = "known", issue
        cell = item.config.stash[STAGE].cell(case, name, check_of(item), outcome, why)
        item.config.stash[STORE].add(cell)
    return report


def _known(item: pytest.Item, case: Case, name: str, said: str) -> str:
    """What a waiver says of this failure of a run that has no fault of ours in it, or nothing."""
    if name != FAULT_FREE and not CATALOGUE[name].equivalent:
        return ""
    nodeid = item.nodeid.replace(f"-fault={name}", "").replace(f"fault={name}-", "")
    run = item.config.stash[RUN]
    waiver = run.waivers.excuse(nodeid, said, partial(run.references.weights_sha256, case.model))
    return "" if waiver is None else waiver.issue


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Take the last fault out before the groups end."""
    session.config.stash[STAGE].leave(session.config.stash[STORE])
