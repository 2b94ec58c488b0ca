"""What a collected test is about: its case, its workload, what its suite's marks ask, and whether the run wants it."""

from __future__ import annotations

from typing import Any

import pytest

from genqual.cases import Case, Json, Workload
from genqual.engines.registry import engine
from genqual.metrics.slo import Limit
from genqual.session import concurrent_instances, markers, max_batch, node_items
from genqual.session.context import Run
from genqual.session.selection import Selection


def case_of(item: pytest.Item) -> Case | None:
    """The case that a test is run for; None where it has none, as another package's tests."""
    case = _params(item).get("case")
    return case if isinstance(case, Case) else None


def workload_of(item: pytest.Item) -> Workload | None:
    """The workload that a test is run for; None where it has none."""
    workload = _params(item).get("workload")
    return workload if isinstance(workload, Workload) else None


def asked(item: pytest.Item, name: str, default: Any) -> Any:
    """What the nearest suite's mark says under `name`: the test's own before its module's."""
    marks = [mark for mark in item.iter_markers() if mark.name in markers.SUITES]
    said = (markers.asked(mark, name) for mark in marks)
    return next((one for one in said if one is not None), default)


def timed(item: pytest.Item) -> tuple[Workload, str] | None:
    """The workload and the metric that a test gives the verdict on; None where it gives none on a metric."""
    metric, workload = asked(item, "metric", None), workload_of(item)
    return (workload, str(metric)) if metric is not None and workload is not None else None


def wanted(item: pytest.Item, selection: Selection) -> bool:
    """Performance needs `--benchmark`, a test of a data set needs one, and one of limits a profile that sets them.

    Repeated prompts are for engines whose cache outlives a request. Checks of the node are run where they are named.
    """
    options = selection.options
    if node_items.FIXTURE in _params(item):
        return node_items.wanted(selection)
    if item.get_closest_marker("performance") and not options.benchmark:
        return False
    needs = _needs(item, "performance")
    if needs == {"limits"}:
        return isinstance(_params(item).get("limit"), Limit)
    if needs == {"instances"}:
        return options.instances > 1
    if needs == {"largest_batch"}:
        return selection.profile.largest_batch is not None
    if needs == {"prompt_cache"}:
        case = case_of(item)  # an engine that we load ourselves starts every request with an empty cache
        return case is not None and engine(case.engine).tier == "tokens"
    return "prompts" not in _needs(item, "conformance") or options.prompts is not None


def in_order(items: list[pytest.Item]) -> list[pytest.Item]:
    """`items`, the conformance tests with `last` behind the others: what restarts ranks costs what was loaded, and
    compiled, for those that come after it. Places of other tests stay; pytest then brings each case together.
    """
    judging = [item for item in items if item.get_closest_marker("conformance")]
    placed = iter(sorted(judging, key=lambda item: bool(asked(item, "last", False))))
    return [next(placed) if item.get_closest_marker("conformance") else item for item in items]


def measured(item: pytest.Item, run: Run) -> tuple[Workload | None, dict[str, Json]]:
    """The workload that a test measures, and by which protocol; nothing where it measures none."""
    needs, workload = _needs(item, "performance"), workload_of(item)
    if workload is None:
        return None, {}
    if "instances" in needs:
        return workload, concurrent_instances.protocol(run)
    if "largest_batch" in needs:
        return workload, max_batch.protocol(run)
    if "limits" in needs or any("metric" in mark.kwargs for mark in item.iter_markers("performance")):
        return workload, run.measuring.protocol_of(case, workload) if (case := case_of(item)) else {}
    return None, {}


def property_of(item: pytest.Item) -> str:
    """What a test judges, by its name: `left_padding_changes_nothing` of `test_left_padding_changes_nothing[...]`."""
    return str(getattr(item, "originalname")).removeprefix("test_")  # noqa: B009 - a function item has one


def parameters_of(item: pytest.Item) -> dict[str, Json]:
    """A test's own parameters: they define what was judged as much as its name does."""
    return {name: value for name, value in _params(item).items() if name not in ("case", "workload")}


def _needs(item: pytest.Item, suite: str) -> set[Any]:
    """What the marks of `suite` say under `requires_option`; None among them where one says nothing."""
    return {markers.asked(mark, "requires_option") for mark in item.iter_markers(suite)}


def _params(item: pytest.Item) -> dict[str, Any]:
    found: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    return found
