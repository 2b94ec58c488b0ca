from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from genqual.cases import Workload as Asked
from genqual.devices.base import HardwareIdentity
from genqual.models.spec import ModelSpec
from genqual.records.fields import Engine, Model, Outcome, Precision, Provenance, Software, System, Workload
from genqual.records.metric import Gate, Metric
from genqual.records.record import SCHEMA, CorruptRecord, FutureRecord, Record, now
from tests.results.make import record, timing, verdict


def rehashed(body: dict[str, Any]) -> bytes:
    """A record file made without our code: sorted keys, no spaces, SHA-256 of everything but the id."""
    body = {key: value for key, value in body.items() if key != "id"}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return json.dumps({**body, "id": hashlib.sha256(text.encode()).hexdigest()}, indent=1).encode()


def as_dict(made: Record) -> dict[str, Any]:
    kept: dict[str, Any] = json.loads(made.to_bytes())
    return kept


def test_the_id_is_the_hash_of_everything_but_the_id() -> None:
    made = record(metrics=(timing(samples=(0.125, 0.25, 0.5)),))
    kept = as_dict(made)
    identifier = kept.pop("id")
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert identifier == made.id == hashlib.sha256(text.encode()).hexdigest()
    assert made.body() == text.encode()


WORDS = st.text(st.characters(max_codepoint=0xD7FF), max_size=8)  # below the surrogates UTF-8 and UTF-16 sort alike


@given(st.dictionaries(WORDS, st.integers(-(10**6), 10**6) | WORDS | st.none() | st.booleans(), max_size=5))
def test_the_id_agrees_with_plain_json_whatever_the_facts(facts: dict[str, Any]) -> None:
    made = record(protocol=facts, metrics=(timing(samples=(0.125,)),))
    assert as_dict(made)["id"] == json.loads(rehashed(as_dict(made)))["id"]


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=6))
def test_what_is_written_is_read_back(samples: list[float]) -> None:
    made = record(metrics=(Metric(name="x", unit="s", value=samples[0], samples=tuple(samples), better="lower"),))
    back = Record.from_bytes(made.to_bytes())
    assert back == made
    assert (back.id, back.to_bytes(), back.key) == (made.id, made.to_bytes(), made.key)


BASE = record()
CHANGES: dict[str, tuple[dict[str, Any], bool]] = {
    "run": ({"run": "run-2"}, False),
    "attempt": ({"attempt": 2}, False),
    "created": ({"created": "2026-05-01T12:00:00.000001Z"}, False),
    "device class": ({"system": BASE.system.model_copy(update={"class_id": "h100"})}, True),
    "places used": ({"system": BASE.system.model_copy(update={"used": 2})}, True),
    "a fact": ({"system": BASE.system.model_copy(update={"facts": {"sockets": 2}})}, False),
    "a version": ({"software": Software(genqual="0.1.0", versions={"numpy": "2.1"})}, False),
    "weights": ({"model": BASE.model.model_copy(update={"weights_sha256": "b" * 64})}, True),
    "the model's name": ({"model": BASE.model.model_copy(update={"name": "same-weights"})}, False),
    "engine": ({"engine": Engine(name="other", ranks=1)}, True),
    "ranks": ({"engine": Engine(name="transformers", ranks=2)}, True),
    "options": ({"engine": Engine(name="transformers", ranks=1, options={"graphs": True})}, True),
    "inspection": ({"engine": Engine(name="transformers", ranks=1, inspection={"sdpa": True})}, False),
    "dtype": ({"precision": Precision(dtype="fp32")}, True),
    "batch": ({"workload": Workload(batch=2, input_length=32, new_tokens=16)}, True),
    "outcome": ({"outcome": Outcome(status="oom", message="48 GiB")}, False),
    "metrics": ({"metrics": (timing(samples=(0.5,)),)}, False),
    "protocol": ({"protocol": {"warmup": 2}}, True),
    "labels": ({"labels": {"test": "suites/x.py::test"}}, False),
    "command": ({"command": "pytest -m xeon"}, False),
    "provenance": ({"provenance": Provenance(kind="simulated")}, False),
}


@pytest.mark.parametrize(("update", "in_key"), CHANGES.values(), ids=CHANGES)
def test_any_field_changes_the_id_and_only_what_was_measured_the_key(update: dict[str, Any], in_key: bool) -> None:
    made = BASE.model_copy(update=update)
    assert made.id != BASE.id
    assert (made.key != BASE.key) == in_key


def test_an_out_of_memory_row_has_the_key_of_the_row_that_would_have_been() -> None:
    assert record(status="oom").key == record().key


def test_a_model_without_known_weights_is_keyed_by_its_name() -> None:
    cited = [record(weights=None, model=name).key for name in ("bloom-176b", "bloom-176b", "bloom-7b")]
    assert cited[0] == cited[1] != cited[2]


def test_a_field_that_a_later_minor_version_adds_as_null_keeps_the_key() -> None:
    assert record().facets()["workload"] == {"batch": 1, "input_length": 32, "new_tokens": 16}


def test_a_copy_is_validated_and_gets_its_own_id() -> None:
    with pytest.raises(ValidationError):
        BASE.model_copy(update={"attempt": 0})
    assert Record.from_bytes(BASE.model_copy(update={"run": "z"}).to_bytes()).run == "z"


def test_a_record_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        BASE.run = "other"


def test_what_is_stored_does_not_follow_a_dict_that_was_given_or_taken() -> None:
    facts = {"sockets": 1}
    made = record(protocol=facts)
    before = made.to_bytes()
    facts["sockets"] = 2
    made.protocol["sockets"] = 3
    assert made.to_bytes() == before


PLACES: dict[str, Callable[[float], object]] = {
    "value": lambda bad: timing(value=bad),
    "sample": lambda bad: timing(samples=(0.1, bad, 0.2), value=0.1),
    "fact": lambda bad: System(device="xeon", class_id="c", used=1, facts={"deep": [{"er": bad}]}),
    "nrms": lambda bad: verdict(nrms=bad),
    "gate": lambda bad: Gate(verdict="pass", estimate=bad),
}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_a_number_that_is_not_finite_is_refused_with_the_way_out(bad: float, place: Callable[[float], object]) -> None:
    with pytest.raises(ValueError, match="store null instead and say why in the outcome"):
        place(bad)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: record(kind="judgement"), "a judgement has a `judgement`"),
        (lambda: record(metrics=()), "nothing was measured"),
        (lambda: record(metrics=(timing(), timing(samples=(0.3,)))), "stands twice: tpot"),
        (lambda: record(outcome=Outcome(status="oom")), "status oom needs a message"),
        (lambda: record(provenance="cited"), "cited needs a source"),
        (lambda: record(created="2026-05-01 12:00"), "not a UTC moment"),
        (lambda: record(created="2026-13-01T12:00:00.000000Z"), "month must be in"),
        (lambda: record(attempt=0), "greater than or equal to 1"),
        (lambda: record(attempt=True), "valid integer"),
        (lambda: record(model="a\x1b[2J"), "should match pattern"),
        (lambda: record(weights="abc"), "should match pattern"),
        (lambda: record(surprise=1), "Extra inputs are not permitted"),
        (lambda: record(command="\ud800"), "surrogates|UTF-8"),
        (lambda: Outcome.model_validate({"status": "fine"}), "Input should be"),
    ],
)
def test_what_makes_no_sense_is_refused(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_now_is_a_moment_a_record_takes_and_sorts_as_text() -> None:
    first, second = now(), now()
    assert record(created=first).created <= record(created=second).created


@pytest.mark.parametrize(
    ("command", "kept"),
    [
        ("pytest -m xeon --model org/name@v1", "pytest -m xeon --model org/name@v1"),
        ("pytest --upload sqlite:///a@b.db -q", "pytest --upload sqlite:///a@b.db -q"),
        ("pytest --upload postgresql://u:s3cr3t@h/x -q", "pytest --upload 'postgresql://***@h/x' -q"),
        ("pytest --upload=postgresql://u:s3cr3t@h/x", "pytest '--upload=postgresql://***@h/x'"),
        ("GENQUAL_UPLOAD='pg://u:s3cr3t pw@h/x' pytest", "'GENQUAL_UPLOAD=pg://***@h/x' pytest"),
        ("pytest 'postgresql://u:s3cr3t@h/x", "'pytest '\"'\"'postgresql://***@h/x'"),
    ],
)
def test_a_password_in_the_command_is_not_kept(command: str, kept: str) -> None:
    made = record(command=command)
    assert made.command == kept
    assert b"s3cr3t" not in made.to_bytes()
    assert Record.from_bytes(made.to_bytes()) == made


def changed(made: Record, path: str, value: object) -> dict[str, Any]:
    body = as_dict(made)
    *parents, last = path.split(".")
    holder: Any = body
    for step in parents:
        holder = holder[int(step)] if isinstance(holder, list) else holder[step]
    holder[last] = value
    return body


def test_a_changed_sample_is_noticed() -> None:
    forged = changed(record(), "metrics.0.value", 0.001)
    with pytest.raises(CorruptRecord, match="changed after writing"):
        Record.from_bytes(json.dumps(forged).encode())


@given(st.data())
def test_no_changed_byte_goes_unnoticed(data: st.DataObject) -> None:
    raw = bytearray(BASE.to_bytes())
    where = data.draw(st.integers(0, len(raw) - 1))
    raw[where] = data.draw(st.integers(0, 255).filter(lambda byte: byte != raw[where]))
    with pytest.raises((CorruptRecord, FutureRecord)):
        Record.from_bytes(bytes(raw))


@given(st.integers(0, len(BASE.to_bytes()) - 1))
def test_no_truncation_goes_unnoticed(length: int) -> None:
    with pytest.raises(CorruptRecord):
        Record.from_bytes(BASE.to_bytes()[:length])


def test_a_pretty_printed_record_is_the_same_record() -> None:
    assert Record.from_bytes(json.dumps(as_dict(BASE), indent=2).encode()).id == BASE.id


def test_a_later_minor_version_is_read_and_kept_byte_for_byte() -> None:
    body = changed(record(metrics=(timing(samples=(0.125,)),)), "metrics.0.energy", {"joule": 3})
    body |= {"schema": "genqual/1.7", "signature": "x", "system": {**body["system"], "serial": "hashed"}}
    raw = rehashed(body)
    read = Record.from_bytes(raw)
    assert read.schema_ == "genqual/1.7"
    assert read.metrics[0].value == 0.125
    assert read.id == json.loads(raw)["id"]
    assert json.loads(read.to_bytes()) == json.loads(raw)


def test_a_field_unknown_to_our_own_version_is_corruption() -> None:
    raw = rehashed(changed(BASE, "system.serial", "x"))
    with pytest.raises(CorruptRecord, match=r"not a genqual/1\.0 record: system\.serial"):
        Record.from_bytes(raw)


def test_a_future_major_version_says_to_upgrade_whatever_it_holds() -> None:
    raw = json.dumps({"schema": "genqual/2.0", "entirely": "different"}).encode()
    with pytest.raises(FutureRecord, match=r"genqual/2\.0; this genqual reads genqual/1\.x: upgrade genqual"):
        Record.from_bytes(raw)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "not a record"),
        (b"[]", "the JSON is a list"),
        (b"{}", "its schema is None"),
        (b'{"schema":"conbench/1.0"}', "its schema is 'conbench/1.0'"),
        (b'{"schema":"genqual/0.9"}', "never published"),
        (b'{"schema":"genqual/1.0","id":"\\ud800"}', "content hashes to"),
        (b'{"schema":"genqual/1.0","run":"\\ud800"}', "UTF-8"),
        (b'{"schema":"genqual/1.0","a":' + b"[" * 20_000 + b"]" * 20_000 + b"}", "not a record"),
    ],
)
def test_other_bytes_are_no_record(raw: bytes, words: str) -> None:
    with pytest.raises(CorruptRecord, match=words):
        Record.from_bytes(raw)


def test_the_schema_is_named_in_the_record() -> None:
    assert as_dict(BASE)["schema"] == SCHEMA == "genqual/1.0"


@dataclass(frozen=True)
class Measurement:
    name: str = "ttft"
    unit: str = "s"
    value: float | None = 0.5
    samples: tuple[float, ...] = (0.4, 0.5, 0.6)
    statistic: str = "median over repetitions"
    better: Literal["lower", "higher"] = "lower"
    note: str = "of 3"


class Said(Enum):
    NO_BASELINE = "no_baseline"


@dataclass(frozen=True)
class Result:
    verdict: Said = Said.NO_BASELINE
    reason: str = "none committed"
    estimate: float | None = None
    interval: tuple[float, float] | None = (-0.01, 0.02)
    e_value: float | None = None
    launches: int = 3


def test_the_constructors_take_what_the_other_rooms_make() -> None:
    identity = HardwareIdentity("xeon", "xeon-6-2c", {"isa": ["amx"]})
    gate = Gate.of(Result())
    metric = Metric.of(Measurement(), definition="step[0]", gate=gate)
    made = Record(
        run="r",
        kind="measurement",
        system=System.of(identity, used=2),
        software=Software.here(["numpy", "no-such-distribution"]),
        model=Model.of(ModelSpec("llama-tiny", "embedded", "llama-tiny", "llama"), "c" * 64),
        engine=Engine(name="deepspeed-inference", ranks=2, parallelism={"tensor": 2}),
        precision=Precision(dtype="fp32"),
        workload=Workload.of(Asked(4, 128, 32)),
        metrics=(metric,),
    )
    assert made.workload.label == "b4-i128-n32"
    assert made.engine.label == "deepspeed-inference tp2"
    assert set(made.software.versions) == {"numpy"}
    kept = as_dict(made)["metrics"][0]
    assert kept["samples"] == [0.4, 0.5, 0.6]
    assert kept["gate"]["verdict"] == "no_baseline"
    assert kept["gate"]["interval"] == [-0.01, 0.02]
