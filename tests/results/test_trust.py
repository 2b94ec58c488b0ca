"""Manifest, signature, verification: each way of tampering is named. Signatures are checked by openssl as well."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from genqual.commands.trust import sign, verify
from genqual.engines.base import Generated
from genqual.records.fields import Provenance
from genqual.records.metric import Better, Gate, Metric
from genqual.records.outputs import Outputs
from genqual.records.record import Record
from genqual.signing.audit import audit
from genqual.signing.dsse import pae
from genqual.signing.journal import Journal, noted
from genqual.signing.manifest import Manifest, chain
from genqual.storage.sinks.sql import SqlSink
from genqual.storage.sources import load
from genqual.storage.spool import Spool
from tests.results.make import record, verdict
from tests.results.test_record import as_dict, rehashed

RUNS, BATCH, NEW = 3, 2, 5


def measured(**fields: Any) -> Record:
    """A measurement whose sums agree, as a rank's would."""
    tokens = np.arange(BATCH * NEW).reshape(BATCH, NEW)
    steps = [np.arange(1, NEW + 1, dtype=np.float64) * np.float64(0.25 + 0.01 * run) for run in range(RUNS)]
    runs = [Generated(tokens, one, float(one[-1]) + 0.125, 0.5, streamed=tokens[:, 0]) for one in steps]
    outputs = Outputs.of(runs)
    samples: dict[str, tuple[str, Better, list[Any]]] = {
        "ttft": ("s", "lower", [one[0] for one in steps]),
        "tpot": ("s", "lower", [(one[-1] - one[0]) / (NEW - 1) for one in steps]),
        "e2e": ("s", "lower", [one[-1] for one in steps]),
        "tokens_per_s": ("tokens/s", "higher", [BATCH * NEW / one[-1] for one in steps]),
        "msec_per_token": ("ms", "lower", [1000 * run.wall_s / (BATCH * NEW) for run in runs]),
    }
    metrics = tuple(
        Metric(name=name, unit=unit, value=float(np.median(of)), samples=tuple(map(float, of)), better=better)
        for name, (unit, better, of) in samples.items()
    )
    made = record(batch=BATCH, new_tokens=NEW, metrics=metrics, labels={"subject": "case b2"}, **fields)
    workload = made.workload.model_copy(update={"real_new_tokens": BATCH * NEW, "batch_scope": "global"})
    return made.model_copy(update={"outputs": outputs, "workload": workload, "protocol": {"hook": "none"}})


def gated(one: Record) -> Record:
    metrics = (one.metrics[0].model_copy(update={"gate": Gate(verdict="pass", launches=3)}), *one.metrics[1:])
    return one.model_copy(update={"metrics": metrics})


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """What a run leaves: three measurements of one key, a judgement, a journal and a manifest; and a pair of keys."""
    state = tmp_path / "state"
    keep(state, [gated(measured(attempt=attempt)) for attempt in (1, 2, 3)] + [verdict(batch=BATCH)])
    for name in ("ours", "theirs"):
        key = str(tmp_path / f"{name}.pem")
        subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", key], check=True, capture_output=True)
        subprocess.run(["openssl", "pkey", "-in", key, "-pubout", "-out", str(tmp_path / f"{name}.pub")], check=True)
    return state


def keep(state: Path, made: list[Record]) -> None:
    journal, spool = state / "attempts" / "run-1.jsonl", Spool(state / "spool")
    journal.unlink(missing_ok=True)
    for one in made:
        if one.kind == "measurement":
            Journal(journal).begin("case b2")
        spool.write(one)
    manifest = Manifest.of(made, started=noted(journal).begun, logs={"rank0.log": "0" * 64})
    (state / "manifests").mkdir(exist_ok=True)
    (state / "manifests" / "run-1.json").write_bytes(manifest.to_bytes())


def signed(state: Path, *words: str) -> Path:
    done = CliRunner().invoke(sign, ["--state-dir", str(state), "--key", str(state.parent / "ours.pem"), *words])
    assert done.exit_code == 0, done.output + str(done.exception)
    return state / "signed" / "run-1.jsonl"


def checked(source: Path | str, *words: str) -> Result:
    return CliRunner().invoke(verify, [str(source), *words])


def with_key(state: Path, name: str = "ours") -> list[str]:
    return ["--key", str(state.parent / f"{name}.pub")]


def test_a_signed_run_is_believed(state: Path) -> None:
    done = checked(signed(state), *with_key(state))
    assert (done.exit_code, done.output) == (0, "4 records checked: signed, and nothing wrong was found\n")


def test_the_signature_is_one_that_openssl_believes(state: Path, tmp_path: Path) -> None:
    envelope = json.loads(signed(state).read_bytes().splitlines()[0])
    payload = base64.b64decode(envelope["payload"])
    kind = envelope["payloadType"].encode()
    message = b"DSSEv1 " + str(len(kind)).encode() + b" " + kind + b" " + str(len(payload)).encode() + b" " + payload
    (tmp_path / "message").write_bytes(message)
    (tmp_path / "sig").write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))
    words = ["-pubin", "-inkey", str(tmp_path / "ours.pub"), "-rawin", "-in", str(tmp_path / "message")]
    done = subprocess.run(
        ["openssl", "pkeyutl", "-verify", *words, "-sigfile", str(tmp_path / "sig")], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr


@given(st.text(max_size=9), st.binary(max_size=99))
def test_the_encoding_that_is_signed_is_dsse_s(kind: str, payload: bytes) -> None:
    """Protocol.md: PAE("http://example.com/HelloWorld", "hello world") is given as an example."""
    assert pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )
    assert pae(kind, payload).endswith(b" " + payload)


def test_the_chain_is_what_the_module_says() -> None:
    link = hashlib.sha256(b"run-1").hexdigest()
    expected = []
    for identifier in ("a" * 64, "b" * 64):
        link = hashlib.sha256((link + identifier).encode()).hexdigest()
        expected.append(link)
    assert chain("run-1", ["a" * 64, "b" * 64]) == expected


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def put(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def a_sample(lines: list[dict[str, Any]]) -> None:
    first = next(line for line in lines if line.get("kind") == "measurement")
    first["metrics"][0]["samples"][0] *= 0.5


def a_sample_rehashed(lines: list[dict[str, Any]]) -> None:
    place = next(n for n, line in enumerate(lines) if line.get("kind") == "measurement")
    a_sample(lines)
    lines[place] = json.loads(rehashed(lines[place]))


def an_id(lines: list[dict[str, Any]]) -> None:
    lines[1]["id"] = "f" * 64


def a_missing_attempt(lines: list[dict[str, Any]]) -> None:
    lines[:] = [line for line in lines if line.get("attempt") != 2]


def a_signature(lines: list[dict[str, Any]]) -> None:
    raw = bytearray(base64.b64decode(lines[0]["signatures"][0]["sig"]))
    raw[10] ^= 1
    lines[0]["signatures"][0]["sig"] = base64.b64encode(bytes(raw)).decode()


def of_manifest(change: Callable[[dict[str, Any]], object]) -> Callable[[list[dict[str, Any]]], None]:
    def apply(lines: list[dict[str, Any]]) -> None:
        manifest = json.loads(base64.b64decode(lines[0]["payload"]))
        change(manifest)
        lines[0]["payload"] = base64.b64encode(json.dumps(manifest).encode()).decode()

    return apply


def an_added_record(lines: list[dict[str, Any]]) -> None:
    lines.append(as_dict(measured(attempt=4)))


TAMPERING: dict[str, tuple[Callable[[list[dict[str, Any]]], None], tuple[str, ...]]] = {
    "sample": (a_sample, ("error: hash: line ", "it was changed after writing", "error: completeness: record ")),
    "sample, id made anew": (
        a_sample_rehashed,
        ("is in the manifest and not here", "here and not in the manifest", "samples"),
    ),
    "id": (an_id, ("error: hash: line 2, record ffffffffffff", "the content hashes to")),
    "attempt": (a_missing_attempt, ("attempt 2 at ", "3 attempts were begun, 2 left a record")),
    "signature": (a_signature, ("error: signature: key ours.pub (", "the signature does not fit the manifest")),
    "record added": (an_added_record, ("it is here and not in the manifest",)),
    "entry taken out": (
        of_manifest(lambda manifest: manifest["records"].pop(1)),
        ("the signature does not fit", "error: chain: run run-1", "it is here and not in the manifest"),
    ),
    "claim": (
        of_manifest(lambda manifest: manifest.update(run="run-2")),
        ("the signature does not fit", "error: chain"),
    ),
    "payload": (lambda lines: lines[0].update(payload="e30="), ("error: manifest: the envelope", "the signature does")),
}


@pytest.mark.parametrize("name", TAMPERING)
def test_tampering_is_named(state: Path, name: str) -> None:
    path = signed(state)
    lines = lines_of(path)
    tamper, words = TAMPERING[name]
    tamper(lines)
    put(path, lines)
    done = checked(path, *with_key(state))
    assert done.exit_code == 1
    assert not [word for word in words if word not in done.output], done.output


def test_another_s_key_proves_nothing(state: Path) -> None:
    done = checked(signed(state), *with_key(state, "theirs"))
    assert done.exit_code == 1
    assert "key theirs.pub" in done.output
    assert "nothing here is signed by it" in done.output


def test_without_a_key_it_is_not_known_who_signed(state: Path) -> None:
    done = checked(signed(state))
    assert done.exit_code == 1
    assert "give --key PUBLIC.pem to know whether that is true" in done.output


def test_two_may_sign_and_both_are_checked(state: Path) -> None:
    path = signed(state, "--key", str(state.parent / "theirs.pem"))
    assert checked(path, *with_key(state), *with_key(state, "theirs")).exit_code == 0


def test_records_without_a_signature_are_checked_all_the_same(state: Path) -> None:
    spool = state / "spool"
    assert "error: signature: the run: it is not signed" in checked(spool).output
    done = checked(spool, "--unsigned")
    assert (done.exit_code, done.output) == (0, "4 records checked: nothing wrong was found\n")
    next(path for path in spool.glob("*.json") if json.loads(path.read_text())["attempt"] == 2).unlink()
    done = checked(spool, "--unsigned")
    assert done.exit_code == 1
    assert "attempt 2 at " in done.output


def test_a_database_is_verified_against_an_envelope(state: Path, tmp_path: Path) -> None:
    path = signed(state)
    url = f"sqlite:///{tmp_path}/r.db"
    SqlSink.open(url).send([*load(str(path)), record(run="another run")])
    assert checked(url, "--envelope", str(path), *with_key(state)).exit_code == 0
    assert checked(f"{tmp_path}/r.db#kind=measurement", "--envelope", str(path), *with_key(state)).exit_code == 1


def test_a_signed_session_is_a_source_like_any_other(state: Path) -> None:
    assert {one.attempt for one in load(str(signed(state)))} == {1, 2, 3}


def test_simulated_records_cannot_be_signed_as_measured(state: Path) -> None:
    simulated = measured().model_copy(update={"provenance": Provenance(kind="simulated")})
    keep(state, [simulated, verdict(batch=BATCH)])
    words = ["--state-dir", str(state), "--key", str(state.parent / "ours.pem")]
    done = CliRunner().invoke(sign, words)
    assert "1 simulated records, which cannot be signed as measured" in str(done.exception)
    assert not (state / "signed").exists()
    path = signed(state, "--simulated")
    assert json.loads(base64.b64decode(lines_of(path)[0]["payload"]))["claim"] == "simulated"


def test_a_manifest_that_lies_about_simulation_is_not_signed_and_not_believed(state: Path) -> None:
    simulated = measured().model_copy(update={"provenance": Provenance(kind="simulated")})
    keep(state, [simulated, verdict(batch=BATCH)])
    path = state / "manifests" / "run-1.json"
    path.write_text(path.read_text().replace('"claim":"simulated"', '"claim":"measured"'))
    done = CliRunner().invoke(sign, ["--state-dir", str(state), "--key", str(state.parent / "ours.pem")])
    assert done.exit_code != 0
    assert "error: provenance: run run-1: it is signed as measured, and holds simulated records" in done.output


def test_a_run_with_a_lost_record_is_not_signed(state: Path) -> None:
    next((state / "spool").glob("*.json")).unlink()
    done = CliRunner().invoke(sign, ["--state-dir", str(state), "--key", str(state.parent / "ours.pem")])
    assert "is not signed: " in str(done.exception)
    assert "is in the manifest and not here" in done.output


def judged_path(*made: Record) -> list[str]:
    from genqual.signing.verify import verify as findings

    return [str(one) for one in findings(list(made), None, {}) if one.check == "judged path"]


def inspected(one: Record, **facts: Any) -> Record:
    return one.model_copy(update={"engine": one.engine.model_copy(update={"inspection": facts})})


def test_a_gated_latency_was_measured_in_the_judged_path() -> None:
    latency, right, wrong = gated(measured()), verdict(batch=BATCH), verdict(batch=BATCH, word="fail")
    assert judged_path(latency, right) == []
    assert "error" in judged_path(latency)[0]
    assert "nothing of this run judged its outputs right" in judged_path(latency)[0]
    assert "judged wrong in this run" in judged_path(latency, right, wrong)[0]
    assert "nothing of this run" in judged_path(latency, verdict(batch=BATCH, run="run-2"))[0]
    assert "nothing of this run" in judged_path(latency, verdict(batch=BATCH, dtype="fp32"))[0]
    other = inspected(latency, attn_implementation="flash")
    assert "the engine's inspection differs" in judged_path(other, inspected(right, attn_implementation="eager"))[0]
    counted = inspected(latency, attn_implementation="eager", graph_hits=9)
    assert judged_path(counted, inspected(right, attn_implementation="eager", graph_hits=3)) == []
    hooked = latency.model_copy(update={"protocol": {"hook": "logits"}})
    assert any("timed with a hook: logits" in line for line in judged_path(hooked, right))


def test_a_latency_that_no_baseline_gated_is_noted_only() -> None:
    (line,) = judged_path(measured())
    assert line.startswith("note: ")


def test_consistent_outputs_pass_every_audit() -> None:
    assert list(audit(measured())) == []


def test_a_tpot_is_counted_again_over_the_tokens_after_the_first_piece() -> None:
    """Of five tokens three arrived with the first piece; the record says so, and its TPOT is of the other two."""
    made = measured()
    times = {metric.name: metric.samples for metric in made.metrics}
    pairs = zip(times["ttft"], times["e2e"], strict=True)
    tpot = tuple((end - first) / (NEW - 3) for first, end in pairs)
    metrics = [
        metric.model_copy(update={"samples": tpot, "value": float(np.median(tpot))})
        if metric.name == "tpot"
        else metric
        for metric in made.metrics
    ]
    told = made.model_copy(update={"metrics": tuple(metrics), "labels": {**made.labels, "first_piece": "[3, 3, 3]"}})
    assert list(audit(told)) == []
    for labels in (
        made.labels,
        {**made.labels, "first_piece": "[2, 3, 3]"},
        {**made.labels, "first_piece": "nonsense"},
    ):
        found = list(audit(told.model_copy(update={"labels": labels})))
        assert [check for check, _ in found][:1] == ["samples"]


def changed(path: str, value: Any) -> Record:
    body = as_dict(measured())
    holder: Any = body
    *parents, last = path.split(".")
    for step in parents:
        holder = holder[int(step)] if isinstance(holder, list) else holder[step]
    holder[int(last) if isinstance(holder, list) else last] = value
    return Record.from_bytes(rehashed(body))


@pytest.mark.parametrize(
    ("path", "value", "check", "words"),
    [
        (
            "outputs.streamed.1.0",
            7,
            "first token",
            "run 1, row 0: 7 was streamed when TTFT was stamped, 0 was returned",
        ),
        ("workload.real_new_tokens", 11, "token count", "the rows have 10 tokens, the record says 11"),
        ("outputs.lengths", [5, 4], "token count", "row 1 has 5 tokens, the record says 4"),
        ("outputs.lengths", [5], "token count", "1 rows in a batch of 2"),
        ("outputs.rows.1.4", 3, "tokens", "not those that the hash of the first run is of"),
        ("metrics.0.samples.1", 0.1, "samples", "run 1: ttft + (n - 1) x tpot"),
        ("metrics.3.samples.2", 999.5, "samples", "run 2: batch x n / e2e"),
        ("metrics.4.samples.0", 1.5, "samples", "run 0: 1000 x wall / (batch x n)"),
        ("metrics.1.samples", [0.25], "samples", "tpot has 1 samples of 3 runs"),
        ("outputs.wall_s", [0.1, 0.1, 0.1], "samples", "the last token came after"),
        ("outputs.end_token", 1, "token count", "row 0 has 2 tokens, the record says 5"),
    ],
)
def test_what_does_not_add_up_is_found(path: str, value: Any, check: str, words: str) -> None:
    found = list(audit(changed(path, value)))
    assert [flaw for name, flaw in found if name == check and words in flaw], found


@pytest.mark.parametrize(
    ("row", "fault_free"),
    [([1, 2, 9], True), ([1, 9, 0, 0], True), ([1, 9, 9, 0], False), ([1, 9, 2, 3], False), ([1, 2, 3], True)],
)
def test_a_text_ends_at_its_first_end_token(row: list[int], fault_free: bool) -> None:
    kept = Outputs.of([Generated(np.array([row]), np.ones(len(row)), 1.0, 0.5)], end_token=9)
    made = record(batch=1, new_tokens=len(row)).model_copy(update={"outputs": kept})
    assert ("end of text" in {check for check, _ in audit(made)}) != fault_free


def test_a_measurement_without_its_tokens_is_a_note() -> None:
    assert [check for check, _ in audit(record())] == ["outputs"]


def test_a_journal_survives_a_torn_line_and_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "a" / "run.jsonl"
    journal = Journal(path)
    journal.begin("case")
    journal.wrote("1" * 64)
    with path.open("ab") as stream:
        stream.write(b'{"begun": "ca')
    found = noted(path)
    assert (dict(found.begun), found.wrote) == ({"case": 1}, ["1" * 64])
    (tmp_path / "file").write_text("")
    Journal(tmp_path / "file" / "run.jsonl").begin("case")
    assert not noted(tmp_path / "file" / "run.jsonl").begun


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.write_text("no key"), "no private key in PEM"),
        (lambda path: None, "No such file"),
        (lambda path: subprocess.run(["openssl", "genrsa", "-out", str(path), "1024"], check=True), "of another kind"),
        (
            lambda path: subprocess.run(
                ["openssl", "genpkey", "-algorithm", "ed25519", "-aes256", "-pass", "pass:x", "-out", str(path)],
                check=True,
            ),
            "the key is encrypted: set GENQUAL_KEY_PASSPHRASE",
        ),
    ],
)
def test_a_key_that_cannot_sign_is_a_clear_error(state: Path, make: Callable[[Path], object], words: str) -> None:
    path = state.parent / "bad.pem"
    make(path)
    done = CliRunner().invoke(sign, ["--state-dir", str(state), "--key", str(path)])
    assert words in str(done.exception)


def test_an_encrypted_key_is_opened_by_the_environment(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = state.parent / "ours.pem"
    words = ["openssl", "pkey", "-in", str(key), "-aes256", "-passout", "pass:s3cr3t"]
    key.write_bytes(subprocess.run(words, check=True, capture_output=True).stdout)
    monkeypatch.setenv("GENQUAL_KEY_PASSPHRASE", "s3cr3t")
    assert checked(signed(state), *with_key(state)).exit_code == 0
