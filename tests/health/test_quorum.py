"""By vote: the core whose numbers are not those of its siblings, the node whose numbers are not those of its class."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema
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
from genqual.health.outcomes import bad
from genqual.health.vote import vote
from tests.here import CPU

ROOT = Path(__file__).resolve().parents[2]
CORES = tuple(sorted(os.sched_getaffinity(0)))
FAULT = "tests.health.quorum_faults:defective"
needs_two = pytest.mark.skipif(len(CORES) < 2, reason="one core has nobody to vote with")


@given(st.dictionaries(st.sampled_from("abcdef"), st.lists(st.sampled_from("xyz"), min_size=1), min_size=1))
def test_voters_have_as_many_votes_each_and_whoever_ever_differed_is_odd(said: dict[str, list[str]]) -> None:
    fewest = min(len(each) for each in said.values())
    answers = [one for each in said.values() for one in each[:fewest]]
    most = [one for one in "xyz" if answers.count(one) > len(answers) / 2]
    found = vote(said)
    assert found.agreed == (most[0] if most else None)
    assert set(found.odd) == {name for name, each in said.items() if set(each) != set(most)}


def test_whoever_answers_faster_has_no_more_votes() -> None:
    assert vote({"a": ["x"] * 6, "b": ["y"] * 5}).agreed is None


@pytest.mark.parametrize("said", [{}, {"a": []}, {"a": ["x"], "b": []}])
def test_nobody_who_said_nothing_agrees(said: dict[str, list[str]]) -> None:
    with pytest.raises(ValueError, match="said nothing"):
        vote(said)


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


def other() -> Finding:
    """What a level without a quorum finds."""
    return Finding(check="repeats", entity="rank 0", outcome=Outcome.OK, signal=0.0)


def wrong() -> Finding:
    return bad("known_answers.wrong", "core 0", "1 of 5 wrong", signal=1.0)


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
        ([node("a", printed("1")), node("b", printed("1")), node("c", other())], "unknown", (), ("c",)),
        ([node("a", printed("2")), node("a", printed("1"), later=1), node("b", printed("1"))], "agree", (), ()),
        ([node("a", printed("1")), node("b", printed("2")), node("b", other(), later=1)], "differ", ("a", "b"), ()),
        (
            [node("a", printed("1")), node("b", printed("2"))]
            + [node(one, printed("3"), hardware_class="cards", later=1) for one in "ab"],
            "differ",
            ("a", "b"),
            (),
        ),
        ([node("a", printed("1")), node("a", printed("1"))], "unknown", (), ("a",)),
        ([node("a", printed("1")), node("b", printed("1"), wrong())], "unknown", (), ("a",)),
        ([node("a", printed("1")), node("b", printed("1")), node("b", wrong(), later=1)], "unknown", (), ("a",)),
        ([node("a", printed("1")), node("b", printed("1")), node("c", printed("2"), wrong())], "unknown", (), ()),
        ([], "unknown", (), ()),
    ],
    ids=[
        *("alike", "one of three", "one of two", "alone", "classes", "software", "without", "an older one"),
        *("a later one without", "later ones of cards", "one twice", "unfit", "unfit later", "unfit and odd", "none"),
    ],
)
def test_nodes_are_compared_within_their_class_and_software(
    documents: list[NodeVerdict], verdict: str, odd: tuple[str, ...], silent: tuple[str, ...]
) -> None:
    for order in (documents, documents[::-1]):
        said = fleet.of(order)
        assert set(said.unfit) == {one.node for one in documents if one.verdict == "unfit"}
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


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "No such file"),
        ("{}", "no document of `genqual node`"),
        ('{"payload": "", "payloadType": "t"}', "node.json: "),
        (node("a").model_dump_json().replace("00Z", "00"), "began"),
    ],
    ids=["absent", "empty", "a damaged envelope", "a time without its zone"],
)
def test_what_is_no_document_is_told_and_the_others_are_voted_on(tmp_path: Path, text: str | None, said: str) -> None:
    file = tmp_path / "node.json"
    if text is not None:
        file.write_text(text)
    alone = call(file)
    assert (alone.exit_code, alone.stdout) == (2, "")
    assert said in alone.stderr
    assert str(file) in alone.stderr
    for name, sha in (("a", "1"), ("b", "1"), ("c", "2")):
        (tmp_path / f"{name}.json").write_text(node(name, printed(sha)).model_dump_json())
    done = call(file, *(tmp_path / f"{name}.json" for name in "abc"))
    assert done.exit_code == 2, "what was not read is no pass"
    assert "not as most: c" in done.stderr
    assert said in done.stderr


def test_its_verdict_overwrites_no_document_and_says_where_it_cannot_be_written(tmp_path: Path) -> None:
    (file := tmp_path / "a.json").write_text(before := node("a", printed("1")).model_dump_json())
    (tmp_path / "other.json").write_text(node("b", printed("1")).model_dump_json())
    (tmp_path / "new").mkdir()
    done = call(file, tmp_path / "other.json", "--json", tmp_path / "new" / ".." / "a.json")
    assert (done.exit_code, file.read_text()) == (2, before)
    assert "it is one of the documents" in done.stderr
    done = call(file, tmp_path / "other.json", "--json", file / "fleet.json")
    assert done.exit_code == 2
    assert "could not write" in done.stderr
    assert json.loads(done.stdout)["verdict"] == "agree", "it is out all the same"
    made = tmp_path / "new" / "fleet.json"
    assert call(file, tmp_path / "other.json", "--json", made).exit_code == 0
    assert json.loads(made.read_text())["nodes"] == 2


def test_a_node_that_is_missing_or_unfit_is_no_pass(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.json").write_text(node(name, printed("1")).model_dump_json())
    (tmp_path / "c.json").write_text(node("c", printed("1"), wrong()).model_dump_json())
    both = (tmp_path / "a.json", tmp_path / "b.json")
    assert call(*both, "--expect", "2").exit_code == 0
    fewer = call(*both, "--expect", "3")
    assert fewer.exit_code == 1
    assert "2 nodes of 3" in fewer.stderr
    unfit = call(*both, tmp_path / "c.json")
    assert unfit.exit_code == 1
    assert "unfit by its own document: c: known_answers of core 0" in unfit.stderr


def test_the_verdict_is_what_its_schema_says() -> None:
    schema = json.loads(CliRunner().invoke(genqual, ["schema", "fleet"]).output)
    assert schema == json.loads((ROOT / "baselines" / "schema" / "fleet-1.0.json").read_text())
    jsonschema.validate(json.loads(fleet.of([node("a", printed("1"))]).model_dump_json()), schema)


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
