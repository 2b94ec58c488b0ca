"""The only module with pytest hooks. It wires rooms together and decides nothing: verdicts are test outcomes."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn

import pytest

from genqual.cases import Case, Json, Workload
from genqual.devices import simulated
from genqual.devices.registry import devices
from genqual.engines.registry import engine
from genqual.errors import GenqualError, NotApplicable, Unsupported
from genqual.metrics.slo import Limit
from genqual.ranks.errors import GroupLost
from genqual.session import added_suites, concurrent_instances, markers, max_batch
from genqual.session.causes import WHOLE
from genqual.session.context import RUN, Run
from genqual.session.fixture_types import unjudged
from genqual.session.next_step import for_reader
from genqual.session.options import Options, add_options, check_paths, misread_path
from genqual.session.prefetch import PlannedTest, upcoming
from genqual.session.selection import Selection
from genqual.session.terminal import Tally, summarise

_SELECTION = pytest.StashKey[Selection]()
_TALLY = pytest.StashKey[Tally]()
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
        check_paths(options)
        added_suites.add(config)
    except GenqualError as error:
        raise pytest.UsageError(str(error)) from None
    selection = Selection(options, config.getoption("markexpr") or "")
    config.stash[_SELECTION] = selection
    config.stash[_TALLY] = Tally(selection)
    config.pluginmanager.register(_Reports(config.stash[_TALLY]), "genqual-reports")
    config.stash[RUN] = Run.of(config, selection)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a suite's tests their cases and workloads. A case is session-scoped, so that a rank group starts once."""
    mark = next((mark for mark in metafunc.definition.iter_markers() if mark.name in markers.SUITES), None)
    if mark is None or "case" not in metafunc.fixturenames:
        return
    selection = metafunc.config.stash[_SELECTION]
    try:
        plan = selection.plan(mark.name).of_ranks(_asked(metafunc.definition, "min_ranks", 1))
        plan = plan.one_dtype() if _asked(metafunc.definition, "one_dtype", False) else plan
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
    if selection.error is not None:
        raise pytest.UsageError(str(selection.error))
    try:
        config.stash[RUN].read_waivers()
    except GenqualError as error:
        raise pytest.UsageError(str(error)) from None
    # Before anything is left out: a test that is not selected is one that a waiver may name all the same.
    config.stash[RUN].waivers.collected.update(item.nodeid for item in items)
    left = [item for item in items if not _wanted(item, selection.options)]
    if left:
        items[:] = [item for item in items if _wanted(item, selection.options)]
        config.hook.pytest_deselected(items=left)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Note what will be asked of the gate: its error rates hold for all of a run's metrics together."""
    run = session.config.stash[RUN]
    for item in session.items:
        case, mark = _case_of(item), item.get_closest_marker("performance")
        metric = mark.kwargs.get("metric") if mark else None
        if case is not None and metric is not None and metric not in engine(case.engine).unseen:
            run.asked[case] = run.asked.get(case, frozenset()) | {metric}
            workload = _params(item).get("workload")
            if isinstance(workload, Workload):
                run.waivers.tests[case.id, workload.id, metric] = item.nodeid
        measured = None
        if mark and markers.asked(mark, "requires_option") in (None, "limits"):
            measured = _measured(item, run)[0]
        if case is not None and measured is not None:
            first = run.first_item.get((case, measured), item.nodeid)
            run.first_item[case, measured] = min(first, item.nodeid)
    if not hasattr(session.config, "workerinput"):  # an xdist worker does not run its items in this order
        session.config.stash[_UPCOMING] = _upcoming(session.items)


def _upcoming(items: list[pytest.Item]) -> dict[str, Case]:
    """By node id, the case whose group may be begun beside this test."""
    run = [
        (item.nodeid, PlannedTest(case, timed=item.get_closest_marker("conformance") is None))
        for item in items
        if (case := _case_of(item)) is not None and item.get_closest_marker("genqual_unsupported") is None
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


def _wanted(item: pytest.Item, options: Options) -> bool:
    """Performance needs `--benchmark`, a test of a data set needs one, and one of limits a profile that sets them.

    Repeated prompts are for engines whose cache outlives a request.
    """
    if item.get_closest_marker("performance") and not options.benchmark:
        return False
    if {markers.asked(mark, "requires_option") for mark in item.iter_markers("performance")} == {"limits"}:
        return isinstance(getattr(getattr(item, "callspec", None), "params", {}).get("limit"), Limit)
    if {markers.asked(mark, "requires_option") for mark in item.iter_markers("performance")} == {"instances"}:
        return options.instances > 1
    if {markers.asked(mark, "requires_option") for mark in item.iter_markers("performance")} == {"largest_batch"}:
        return item.config.stash[_SELECTION].profile.largest_batch is not None
    if {markers.asked(mark, "requires_option") for mark in item.iter_markers("performance")} == {"prompt_cache"}:
        case = _case_of(item)  # an engine that we load ourselves starts every request with an empty cache
        return case is not None and engine(case.engine).tier == "tokens"
    needs = {markers.asked(mark, "requires_option") for mark in item.iter_markers("conformance")}
    return "prompts" not in needs or options.prompts is not None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    """Skip a case whose device is absent, with what the probe found, or whose engine cannot run it, with its reason."""
    case = _case_of(item)
    if case is not None:
        item.user_properties.append(("genqual_device", case.device))
        found = item.config.stash[_SELECTION].presence(case.device)
        if not found.present:
            pytest.skip(f"{case.device} is absent: {found.probe} found {found.found}")
        unsupported = item.get_closest_marker("genqual_unsupported")
        if unsupported is not None:
            _unsupported(item, case, str(unsupported.args[0]))
        ability = _asked(item, "requires_ability", None)
        lacking = engine(case.engine).lacking(ability) if ability else None
        if lacking is not None:
            unjudged(item, "not_applicable", lacking, gate=False)
        comes = item.config.stash.get(_UPCOMING, {}).get(item.nodeid)
        if comes is not None:
            item.config.stash[RUN].begin(comes, beside=case)
    with _told_plainly(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Tell our own errors in their own words; a traceback of ours explains nothing to the person who runs the suite."""
    with _told_plainly(item):
        return (yield)


@contextmanager
def _told_plainly(item: pytest.Item) -> Iterator[None]:
    case = _case_of(item)
    item.stash[WHOLE] = ""
    try:
        yield
    except Unsupported as reason:
        if case is None:
            raise
        _unsupported(item, case, str(reason))
    except NotApplicable as reason:
        item.user_properties.append(("genqual_verdict", "not_applicable"))
        pytest.skip(f"NOT APPLICABLE: {reason}")
    except (GenqualError, GroupLost) as error:
        if case is None:
            raise
        run = item.config.stash[RUN]
        workload, protocol = _measured(item, run)
        path = run.recorder.without_numbers(case, workload, protocol) if workload is not None else None
        if path is not None:
            item.user_properties.append(("genqual_record", str(path)))
        item.stash[WHOLE] = f"{type(error).__name__}: {error}"
        raise pytest.fail.Exception(run.causes.words(error, item.nodeid), pytrace=False) from None


def _asked(item: pytest.Item, name: str, default: Any) -> Any:
    """What the nearest suite's mark says under `name`: the test's own before its module's."""
    marks = [mark for mark in item.iter_markers() if mark.name in markers.SUITES]
    said = (markers.asked(mark, name) for mark in marks)
    return next((one for one in said if one is not None), default)


def _case_of(item: pytest.Item) -> Case | None:
    case = _params(item).get("case")
    return case if isinstance(case, Case) else None


def _params(item: pytest.Item) -> dict[str, Any]:
    return getattr(getattr(item, "callspec", None), "params", {})


def _unsupported(item: pytest.Item, case: Case, reason: str) -> NoReturn:
    run = item.config.stash[RUN]
    path = run.unsupported(case, reason, *_measured(item, run))
    item.user_properties.append(("genqual_record", str(path)))
    pytest.skip(f"unsupported: {reason}")


def _measured(item: pytest.Item, run: Run) -> tuple[Workload | None, dict[str, Json]]:
    """The workload that an item measures, and by which protocol; nothing where it measures none."""
    marks = list(item.iter_markers("performance"))
    needs = {markers.asked(mark, "requires_option") for mark in marks}
    workload = getattr(getattr(item, "callspec", None), "params", {}).get("workload")
    if not isinstance(workload, Workload):
        return None, {}
    if "instances" in needs:
        return workload, concurrent_instances.protocol(run)
    if "largest_batch" in needs:
        return workload, max_batch.protocol(run)
    if "limits" in needs or any("metric" in mark.kwargs for mark in marks):
        return workload, run.measuring.protocol_of(case, workload) if (case := _case_of(item)) else {}
    return None, {}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Excuse what is known, and name the next command of what failed or was not judged."""
    report = yield
    case, run = _case_of(item), item.config.stash[RUN]
    if case is None:
        return report
    if report.when == "call":
        report = _excused(item, case, run, report)
    if report.when == "call" or not report.passed:
        metric, workload = _asked(item, "metric", None), _params(item).get("workload")
        timed = (workload, metric) if metric is not None and isinstance(workload, Workload) else None
        item.user_properties += for_reader(item, case, run, timed, failed=report.failed)
        report.user_properties = list(item.user_properties)
    return report


def _excused(item: pytest.Item, case: Case, run: Run, report: pytest.TestReport) -> pytest.TestReport:
    """A known failure is WAIVED; one that is known and passes fails, so that no waiver outlives its reason."""
    waiver = run.waivers.of(item.nodeid, partial(run.weights_sha256, case.model))
    if waiver is None:
        return report
    if report.passed:
        report.outcome = "failed"
        report.longrepr = f"unexpected pass (WAIVED): remove the waiver {waiver}"
    elif report.failed and waiver.excuses(f"{report.longreprtext}\n{item.stash.get(WHOLE, '')}"):
        report.outcome = "skipped"
        # JUnit writes the properties of the item, the terminal those of this report: both say the same verdict.
        item.user_properties[:] = [one for one in item.user_properties if one[0] != "genqual_verdict"]
        item.user_properties.append(("genqual_verdict", "waived"))
        report.user_properties = list(item.user_properties)
        path, line, _ = item.location
        report.longrepr = (path, line or 0, f"WAIVED: {waiver.reason}: {report.longreprtext}")
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
    run, tally = config.stash[RUN], config.stash[_TALLY]
    run.close()
    if config.option.collectonly:
        return
    if hasattr(config, "workerinput"):
        from genqual.session.xdist import tell

        tell(config, run)
        return
    if tally.records:
        run.keep_manifest(tally.records)
        run.push()
    if exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED):
        cases = {case.id for item in session.items if (case := _case_of(item)) is not None}
        run.close_waivers(
            whole=cases if _collected_whole(config) else (), selected={item.nodeid for item in session.items}
        )
    if exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = tally.exit_status(run, exitstatus)


def _collected_whole(config: pytest.Config) -> bool:
    """Whether every test of the cases was collected; what `-m`, `-k` and the like left out of these is another matter.

    An xdist controller collects nothing, `--lf` no file without a failure; and `-x` may end a run before its tests.
    """
    options, option = config.stash[RUN].options, config.option
    narrowed = options.engines or options.models or options.dtypes or options.ranks or options.cores_per_rank
    by_path = config.args_source is not pytest.Config.ArgsSource.TESTPATHS
    others = ("numprocesses", "lf", "maxfail", "ignore", "ignore_glob", "stepwise")
    return not (narrowed or by_path or any(getattr(option, name, None) for name in others))


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
