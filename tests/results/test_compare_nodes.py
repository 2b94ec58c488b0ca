from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from genqual.analysis.compare_nodes import Fleet, by_node
from genqual.analysis.compare_nodes_view import as_markdown
from genqual.records.record import Record
from tests.results.make import record, timing, verdict


def on(host: str | None, one: Record) -> Record:
    return one.model_copy(update={"system": one.system.model_copy(update={"host": host})})


def node(host: str, slower: float = 1.0, **fields: Any) -> list[Record]:
    return [
        on(host, record(batch=b, run=f"run-{host}", metrics=(timing(samples=(0.01 * b * slower,)),), **fields))
        for b in (1, 2, 4, 8, 16)
    ]


def fleet(*slower: float) -> Fleet:
    records = [one for n, factor in enumerate(slower) for one in node(f"node-{n}", factor)]
    (found,) = by_node(records)
    return found


def test_nodes_are_ranked_and_the_outlier_is_named() -> None:
    found = fleet(1.00, 1.01, 0.99, 1.004, 1.30, 0.996)
    assert [one.name for one in found.nodes] == ["node-2", "node-5", "node-0", "node-3", "node-1", "node-4"]
    assert [one.outlier for one in found.nodes if one.outlier] == ["outlier: 29.7% slower than the fleet"]
    middle = np.median([1.00, 1.01, 0.99, 1.004, 1.30, 0.996])
    assert found.nodes[-1].slower == pytest.approx(1.30 / middle, rel=1e-3)
    assert found.nodes[-1].rows == 5


def test_higher_is_better_is_turned() -> None:
    def rate(host: str, tokens: float) -> Record:
        metric = timing("tokens_per_s", (tokens,), unit="tokens/s", better="higher")
        return on(host, record(run=host, metrics=(metric,)))

    (found,) = by_node([rate("a", 100), rate("b", 50)])
    assert [one.name for one in found.nodes] == ["a", "b"]


def test_alike_nodes_have_no_outlier() -> None:
    assert not any(one.outlier for one in fleet(1.0, 1.001, 0.999, 1.0, 1.008).nodes)


def test_few_nodes_name_none_and_say_so() -> None:
    found = fleet(1.0, 2.0)
    assert not any(one.outlier for one in found.nodes)
    assert found.notes == ("2 nodes: outliers are named from 5 on",)


def test_a_node_with_wrong_text_is_named_however_fast() -> None:
    records = [*node("a", 0.5), *node("b"), on("a", verdict(word="fail", run="run-a"))]
    (found,) = by_node(records)
    assert found.nodes[0].outlier == "accuracy failed: greedy in declared mode on llama-30m"


def test_what_names_no_node_or_stands_alone_is_said() -> None:
    records = [*node("a"), *node("b"), on(None, record()), on("c", record(batch=99, run="run-c"))]
    (found,) = by_node(records)
    assert found.notes[:2] == ("1 records name no node", "c: no row that another node has")
    assert [one.name for one in found.nodes] == ["a", "b"]


def test_each_class_is_a_fleet_of_its_own() -> None:
    records = [*node("a"), *node("b"), *node("c", 3.0, class_id="other"), *node("d", 3.0, class_id="other")]
    found = by_node(records)
    assert [one.class_id for one in found] == ["other", "xeon-6-2c"]
    assert all(one.slower == pytest.approx(1.0) for each in found for one in each.nodes)


def test_a_hostile_node_name_is_escaped() -> None:
    records = [*node("a|<b>"), *node("b")]
    assert "| a\\|&lt;b&gt; |" in as_markdown(by_node(records))
