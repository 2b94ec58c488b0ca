"""The only module with pytest hooks. It wires rooms together and decides nothing: verdicts are test outcomes."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import pytest

from genqual.cases import Case
from genqual.devices import simulated
from genqual.devices.registry import devices
from genqual.engines.registry import engine
from genqual.errors import GenqualError, NotApplicable, Unsupported
from genqual.ranks.errors import GroupLost
from genqual.session import early_checks, hardware, known_failures, markers, node_items, outcome
from genqual.session.context import RUN, Run
from genqual.session.fixture_types import unjudged
from genqual.session.groups import PlannedTest, upcoming
from genqual.session.item import asked, case_of, in_order, measured, wanted, workload_of
from genqual.session.next_step import for_reader
from genqual.session.options import Options, add_options, misread_path
from genqual.session.selection import Selection, add_suites
from genqual.session.terminal import Tally, summarise

_SELECTION = pytest.StashKey[Selection]()
_TALLY = pytest.StashKey[Tally]()
_COLLECTED_BY = frozenset({"testpaths", "norecursedirs", "python_files", "python_classes", "python_functions"})
_COLLECTS_LESS = (
    *("numprocesses", "lf", "maxfail", "ignore", "ignore_glob", "stepwise", "inifilename"),
    "continue_on_collection_errors",
)
_UPCOMING = pytest.StashKey[dict[str, Case]]()


class _Reports:
    """Hands every report to the tally; the hook itself is not told which session it belongs to."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count what was judged; under xdist the controller sees every worker's reports."""
        self._tally.add(report)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the suite's options."""
    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Read the options; probe nothing yet."""
    reason = misread_path(config)
    if reason:
        raise pytest.UsageError(reason)
    if config.getoption("genqual_simulate"):
        try:
            simulated.switch_on()
        except GenqualError as error:
            raise pytest.UsageError(str(error)) from None
    markers.register(config, ((device.name, device.summary) for device in devices().values()))
    options = Options.of(config)
    try:
        early_checks.check(options)
        add_suites(config)
    except GenqualError as error:
        raise pytest.UsageError(str(error)) from None
    selection = Selection(options, config.getoption("markexpr") or "")
    config.stash[_SELECTION] = selection
    config.stash[_TALLY] = Tally(selection)
    config.pluginmanager.register(_Reports(config.stash[_TALLY]), "genqual-reports")
    config.stash[RUN] = Run.of(config, selection)
    for text in early_checks.of_no_use(options):
        config.stash[RUN].warn(text)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a suite's tests their cases and workloads. A case is session-scoped, so that a rank group starts once."""
    if node_items.FIXTURE in metafunc.fixturenames:
        metafunc.parametrize(node_items.FIXTURE, node_items.items(metafunc.config.stash[_SELECTION]))
    mark = next((mark for mark in metafunc.definition.iter_markers() if mark.name in markers.SUITES), None)
    if mark is None or "case" not in metafunc.fixturenames:
        return
    selection = metafunc.config.stash[_SELECTION]
    try:
        plan = selection.plan(mark.name).of_ranks(asked(metafunc.definition, "min_ranks", 1))
        plan = plan.one_dtype() if asked(metafunc.definition, "one_dtype", False) else plan
        workloads = selection.workloads()
    except GenqualError as error:
        # An exception here would be a collection error with our traceback; collection is ended properly in modifyitems.
        selection.error, plan, workloads = error, None, []
    cases: list[Any] = []
    if plan is not None:
        cases = [pytest.param(case, marks=getattr(pytest.mark, case.device), id=case.id) for case in plan.cases]
        cases += [
            pytest.param(
                case,
                marks=[getattr(pytest.mark, case.device), pytest.mark.genqual_unsupported(reason)],
                id=case.id,
            )
            for case, reason in plan.left_out
        ]
    metafunc.parametrize("case", cases, scope="session")
    if "workload" in metafunc.fixturenames:
        workloads = workloads[: mark.kwargs.get("workloads")]
        metafunc.parametrize("workload", workloads, ids=[w.id for w in workloads], scope="function")
    if "limit" in metafunc.fixturenames:
        limits = selection.profile.limits if selection.error is None else ()
        metafunc.parametrize("limit", limits, ids=[limit.text.replace(" ", "") for limit in limits])


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """End a run whose options cannot be met, and leave out what was not asked for."""
    selection = config.stash[_SELECTION]
    registered = (line.split(":")[0].split("(")[0].strip() for line in config.getini("markers"))
    # Without --strict-markers a test of another package may have a mark that nobody registered.
    mistaken = selection.mistaken_mark({*registered, *(mark.name for item in items for mark in item.iter_markers())})
    if selection.error is not None or mistaken:
        raise pytest.UsageError(mistaken or str(selection.error))
    try:
        config.stash[RUN].waivers.read()
        if node_items.wanted(selection) and not (config.option.collectonly or hasattr(config, "workerinput")):
            node_items.begin(selection, config.stash[RUN].state)
    except GenqualError as error:
        raise pytest.UsageError(str(error)) from None
    # Before anything is left out: a test that is not selected is one that a waiver may name all the same.
    config.stash[RUN].waivers.collect(item.nodeid for item in items)
    left = [item for item in items if not wanted(item, selection)]
    if left:
        items[:] = [item for item in items if wanted(item, selection)]
        config.hook.pytest_deselected(items=left)
    items[:] = in_order(items)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Note what will be asked of the gate: its error rates hold for all of a run's metrics together."""
    run = session.config.stash[RUN]
    for item in session.items:
        case, mark = case_of(item), item.get_closest_marker("performance")
        metric = mark.kwargs.get("metric") if mark else None
        if case is not None and metric is not None and metric not in engine(case.engine).unseen:
            run.gate.ask(case, workload_of(item), metric, item.nodeid)
        shared = None
        if mark and markers.asked(mark, "requires_option") in (None, "limits"):
            shared = measured(item, run)[0]
        if case is not None and shared is not None:
            run.gate.share(case, shared, item.nodeid)
    if not hasattr(session.config, "workerinput"):  # an xdist worker does not run its items in this order
        session.config.stash[_UPCOMING] = _upcoming(session.items)


def _upcoming(items: list[pytest.Item]) -> dict[str, Case]:
    """By node id, the case whose group may be begun beside this test."""
    run = [
        (item.nodeid, PlannedTest(case, timed=item.get_closest_marker("conformance") is None))
        for item in items
        if (case := case_of(item)) is not None and item.get_closest_marker("genqual_unsupported") is None
    ]
    cases = upcoming([step for _, step in run])
    return {nodeid: case for (nodeid, _), case in zip(run, cases, strict=True) if case is not None}


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    """Say what the profile left to the device, where that is not what a reader expects."""
    selection = config.stash[_SELECTION]
    return [
        f"genqual: {name} has no bf16 instructions, so `native` is {devices()[name].native_dtype}; "
        f"--dtype bf16 times its fallback"
        for name in selection.without_bf16()
    ]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    """Skip a case whose device is absent, with what the probe found, or whose engine cannot run it, with its reason."""
    case = case_of(item)
    if case is not None:
        outcome.tell(item, device=case.device)
        found = item.config.stash[_SELECTION].presence(case.device)
        if not found.present:
            pytest.skip(f"{case.device} is absent: {found.probe} found {found.found}")
        unsupported = item.get_closest_marker("genqual_unsupported")
        if unsupported is not None:
            _unsupported(item, case, str(unsupported.args[0]))
        ability = asked(item, "requires_ability", None)
        lacking = engine(case.engine).lacking(ability) if ability else None
        if lacking is not None:
            unjudged(item, "not_applicable", lacking, gate=False)
        comes = item.config.stash.get(_UPCOMING, {}).get(item.nodeid)
        if comes is not None:
            item.config.stash[RUN].groups.begin(comes, beside=case)
    with _told_plainly(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Tell our own errors in their own words; a traceback of ours explains nothing to the person who runs the suite."""
    with _told_plainly(item):
        if case_of(item) is None:
            return (yield)
        with hardware.judged_window(item):
            return (yield)


@contextmanager
def _told_plainly(item: pytest.Item) -> Iterator[None]:
    case = case_of(item)
    outcome.tell(item, failure="")
    try:
        yield
    except Unsupported as reason:
        if case is None:
            raise
        _unsupported(item, case, str(reason))
    except NotApplicable as reason:
        unjudged(item, "not_applicable", str(reason), gate=False)
    except (GenqualError, GroupLost) as error:
        if case is None:
            raise
        run = item.config.stash[RUN]
        workload, protocol = measured(item, run)
        recorder = run.records.recorder
        path = recorder.without_numbers(case, workload, protocol) if workload is not None else None
        if "verdict" in getattr(item, "fixturenames", ()) and not outcome.of_item(item).records:
            path = known_failures.without_verdict(item, case, run, error)
        if path is not None:
            outcome.tell_record(item, path)
        outcome.tell(item, failure=f"{type(error).__name__}: {error}")
        raise pytest.fail.Exception(run.causes.words(error, item.nodeid), pytrace=False) from None


def _unsupported(item: pytest.Item, case: Case, reason: str) -> NoReturn:
    run = item.config.stash[RUN]
    outcome.tell_record(item, run.records.unsupported(case, reason, *measured(item, run)))
    pytest.skip(f"unsupported: {reason}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Excuse what is known, and name the next command of what failed or was not judged."""
    report = yield
    case, run = case_of(item), item.config.stash[RUN]
    # No waiver of a test excuses the hardware.
    over = report.when == "call" or (report.when == "setup" and report.failed)  # ranks that cannot load fail the setup
    if case is not None and over and outcome.of_item(item).verdict != "hardware":
        known_failures.waive(item, case, run, report)
    told = outcome.of_item(item)
    if case is not None and (report.when == "call" or not report.passed):
        told = for_reader(told, item, case, run, failed=report.failed)
        outcome.keep(item, told)
    outcome.attach(report, told)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, dict[str, Any] | None, dict[str, Any] | None]:
    """A worker's outcome goes to its controller as one JSON text."""
    data = yield
    if data is not None:
        outcome.pack(data)
    return data


@pytest.hookimpl(wrapper=True)
def pytest_report_from_serializable() -> Generator[None, Any, Any]:
    """And comes out as what it was."""
    report = yield
    if report is not None:
        outcome.unpack(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_report_teststatus(
    report: pytest.TestReport, config: pytest.Config
) -> Generator[None, tuple[str, str, Any], tuple[str, str, Any]]:
    """Show a verdict that is neither pass nor fail under its own name."""
    status = yield
    return config.stash[_TALLY].status(report) or status


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config) -> None:
    """Show the tables; the verdicts were given by the tests. A usage error says itself why there are none."""
    if exitstatus == pytest.ExitCode.USAGE_ERROR:
        return
    summarise(terminalreporter, config.stash[RUN], config.stash[_TALLY])


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Stop every rank, send the records, and end non-zero when a named device was not judged."""
    config = session.config
    run, tally, selection = config.stash[RUN], config.stash[_TALLY], config.stash[_SELECTION]
    run.close()
    if config.option.collectonly:
        return
    if hasattr(config, "workerinput"):
        from genqual.session.xdist import tell

        tell(config, run)
        return
    if tally.records:
        run.records.keep_manifest(tally.records, selection.probed)
        run.records.push(run.options.uploads)
    if exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED):
        cases = {case.id for item in session.items if (case := case_of(item)) is not None}
        run.waivers.close(
            whole=cases if _collected_whole(config) else (), selected={item.nodeid for item in session.items}
        )
        node_items.end(selection, run.state)
    if exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = tally.exit_status(run, exitstatus)


def _collected_whole(config: pytest.Config) -> bool:
    """Whether every test of the cases was collected; what `-m`, `-k` and the like left out of these is another matter.

    An xdist controller collects nothing, `--lf` no file without a failure; `-x` may end a run before its tests; and
    settings of one's own may name other test paths.
    """
    options, option = config.stash[RUN].options, config.option
    narrowed = options.engines or options.models or options.dtypes or options.ranks or options.cores_per_rank
    by_path = config.args_source is not pytest.Config.ArgsSource.TESTPATHS
    # --strict-markers and --strict-config are overridden settings, too.
    elsewhere = any(one.partition("=")[0].strip() in _COLLECTED_BY for one in option.override_ini or ())
    return not (narrowed or by_path or elsewhere or any(getattr(option, name, None) for name in _COLLECTS_LESS))


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the ranks of a session that ended before its finish."""
    if RUN in config.stash:
        config.stash[RUN].close()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell an xdist worker which run it belongs to."""
    node.workerinput["genqual_run"] = node.config.stash[RUN].id


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what an xdist worker warns of: its own summary is shown nowhere."""
    from genqual.session.xdist import hear

    hear(node, node.config.stash[RUN])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Distribute by case unless the user chose a distribution; otherwise each worker would start each group."""
    if config.getvalue("dist") != "load":
        return None
    from genqual.session.xdist import CaseScheduling

    return CaseScheduling(config, log)
