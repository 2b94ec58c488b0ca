"""By vote: the core whose numbers are not those of its siblings, the node whose numbers are not those of its class."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from genqual.cases import Json
from genqual.cli import genqual
from genqual.health import fleet, levels
from genqual.health.checks.base import Node
from genqual.health.checks.quorum import Quorum
from genqual.health.finding import Finding, Fingerprint, NodeVerdict, Outcome, Severity, verdict_of
from genqual.health.vote import vote
from tests.here import CPU

ROOT = Path(__file__).resolve().parents[2]
CORES = tuple(sorted(os.sched_getaffinity(0)))
FAULT = "tests.health.quorum_faults:defective"
needs_two = pytest.mark.skipif(len(CORES) < 2, reason="one core has nobody to vote with")


@pytest.fixture(autouse=True, scope="module")
def _ranks_can_import_these_tests() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
        yield


@given(st.dictionaries(st.sampled_from("abcdef"), st.lists(st.sampled_from("xyz"), min_size=1), min_size=1))
def test_a_majority_is_of_all_answers_and_whoever_ever_differed_is_odd(said: dict[str, list[str]]) -> None:
    answers = [one for each in said.values() for one in each]
    most = [one for one in "xyz" if answers.count(one) > len(answers) / 2]
    found = vote(said)
    assert found.agreed == (most[0] if most else None)
    assert set(found.odd) == {name for name, each in said.items() if set(each) != set(most)}


def test_nobody_who_said_nothing_agrees() -> None:
    with pytest.raises(ValueError, match="nobody"):
        vote({"a": []})


def asked(tmp_path: Path, fault: dict[str, Json] | None = None, cores: tuple[int, ...] = CORES[:2]) -> list[Finding]:
    check = Quorum(None if fault is None else (FAULT, fault))
    return list(check.run(Node(CPU, cores, tmp_path), 10.0))


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Finding:
    (found,) = asked(tmp_path_factory.mktemp("healthy"))
    return found


@needs_two
def test_healthy_cores_agree_and_give_the_node_its_fingerprint(healthy: Finding) -> None:
    assert healthy.outcome is Outcome.OK, healthy
    assert healthy.fingerprint is not None
    assert healthy.fingerprint.sha256[:12] in healthy.evidence
    assert {"torch", "transformers", "llama-tiny"} <= set(healthy.fingerprint.of.replace(",", "").split())


@needs_two
def test_a_core_that_is_wrong_now_and_then_is_named(tmp_path: Path) -> None:
    """Every 20th pass there, so two generations of five: the core stays in the minority, with one sibling only."""
    (found,) = asked(tmp_path, {"cores": [CORES[1]], "every": 20})
    assert (found.outcome, found.entity) == (Outcome.BAD, f"core {CORES[1]}"), found
    assert found.severity is Severity.FATAL
    assert "most cores" in found.evidence


@needs_two
def test_of_two_cores_that_always_disagree_none_is_believed(tmp_path: Path) -> None:
    (found,) = asked(tmp_path, {"cores": [CORES[0]]})
    assert (found.outcome, found.entity) == (Outcome.BAD, f"core {CORES[0]}, core {CORES[1]}"), found
    assert found.fingerprint is None


def test_one_core_alone_is_no_pass_and_has_a_fingerprint_to_compare(tmp_path: Path, healthy: Finding) -> None:
    (found,) = asked(tmp_path, cores=CORES[:1])
    assert found.outcome is Outcome.UNAVAILABLE
    assert found.fingerprint == healthy.fingerprint, "one thread, whatever cores there are"


@needs_two
def test_a_node_whose_cores_are_all_wrong_alike_is_named_by_its_siblings(tmp_path: Path, healthy: Finding) -> None:
    """No vote within the node can see it, nor the oracle: one lowest bit."""
    (wrong,) = asked(tmp_path, {"cores": list(CORES), "every": 4})
    assert wrong.outcome is Outcome.OK, wrong
    said = fleet.of([node("a", healthy), node("b", healthy), node("c", wrong)])
    assert (said.verdict, said.ballots[0].odd) == ("differ", ("c",))


def test_level_2_has_a_quorum_and_level_1_keeps_its_stragglers() -> None:
    kept = {
        name: [one.name for one in levels.Level(name, levels.SECONDS[name]).fitting(levels.CHECKS)]
        for name in levels.SECONDS
    }
    assert ["quorum" in kept[name] for name in ("1", "2", "3")] == [False, True, True]
    assert all("stragglers" in names for names in kept.values())
    assert "rank_steps" in kept["2"]


def printed(sha: str, of: str = "torch 2") -> Finding:
    mark = Fingerprint(of=of, sha256=sha * 64)
    return Finding(check="quorum", entity="cores", outcome=Outcome.OK, signal=0.0, fingerprint=mark)


def node(name: str, *findings: Finding, hardware_class: str = "c", later: int = 0) -> NodeVerdict:
    began = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=later)
    return verdict_of(findings, required=[], node=name, hardware_class=hardware_class, level="2", began=began)


@pytest.mark.parametrize(
    ("documents", "verdict", "odd", "silent"),
    [
        ([node("a", printed("1")), node("b", printed("1"))], "agree", (), ()),
        ([node("a", printed("1")), node("b", printed("2")), node("c", printed("1"))], "differ", ("b",), ()),
        ([node("a", printed("1")), node("b", printed("2"))], "differ", ("a", "b"), ()),
        ([node("a", printed("1"))], "unknown", (), ("a",)),
        ([node("a", printed("1")), node("b", printed("2"), hardware_class="other")], "unknown", (), ("a", "b")),
        ([node("a", printed("1")), node("b", printed("2", of="torch 3"))], "unknown", (), ("a", "b")),
        ([node("a", printed("1")), node("b", printed("1")), node("c")], "unknown", (), ("c",)),
        ([node("a", printed("2")), node("a", printed("1"), later=1), node("b", printed("1"))], "agree", (), ()),
    ],
    ids=["alike", "one of three", "one of two", "alone", "classes", "software", "without", "an older one"],
)
def test_nodes_are_compared_within_their_class_and_software(
    documents: list[NodeVerdict], verdict: str, odd: tuple[str, ...], silent: tuple[str, ...]
) -> None:
    for order in (documents, documents[::-1]):
        said = fleet.of(order)
        assert (said.verdict, said.silent) == (verdict, silent)
        assert tuple(name for one in said.ballots for name in one.odd) == odd
        assert said.exit_code == int(verdict != "agree"), "unknown is no pass"


def call(*words: Any) -> Result:
    return CliRunner().invoke(genqual, ["quorum", *map(str, words)])


def test_the_command_names_the_node_and_ends_with_its_status(tmp_path: Path) -> None:
    files = []
    for name, sha in (("a", "1"), ("b", "1"), ("c", "2")):
        files.append(tmp_path / f"{name}.json")
        files[-1].write_text(node(name, printed(sha)).model_dump_json())
    done = call(*files, "--json", tmp_path / "fleet.json")
    assert done.exit_code == 1, done.output
    assert "not as most: c" in done.stderr
    assert json.loads(done.stdout) == json.loads((tmp_path / "fleet.json").read_text())
    assert call(*files[:2]).exit_code == 0
    alone = call(files[0])
    assert alone.exit_code == 1
    assert "--level 2" in alone.stderr, "the next step"


@pytest.mark.parametrize(("text", "said"), [(None, "No such file"), ("{}", "no document of `genqual node`")])
def test_what_is_no_document_is_told(tmp_path: Path, text: str | None, said: str) -> None:
    file = tmp_path / "node.json"
    if text is not None:
        file.write_text(text)
    done = call(file)
    assert done.exit_code == 2
    assert said in done.stderr


def test_a_document_of_the_version_before_is_read(tmp_path: Path) -> None:
    file = tmp_path / "node.json"
    old = json.loads(node("a", printed("1")).model_dump_json())
    old["schema_version"] = "1.0"
    for finding in old["findings"]:
        del finding["fingerprint"]
    file.write_text(json.dumps(old))
    done = call(file)
    assert done.exit_code == 1, done.output
    assert "compared with nobody: a" in done.stderr
