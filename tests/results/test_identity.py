"""What a record says of hardware, software and outputs: names hashed, classes without them, early records read."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console

from genqual.analysis.terminal.performance_view import performance_table
from genqual.cases import Case, Workload
from genqual.commands.schema import schema as schema_command
from genqual.devices.base import HardwareIdentity
from genqual.devices.registry import processor
from genqual.engines.base import Generated
from genqual.errors import BadInput, EngineFailed, OutOfMemory, Unsupported
from genqual.metrics.compute import Measured as Measured
from genqual.paths import data_dir
from genqual.ranks.errors import GroupLost, OutOfMemoryKilled
from genqual.records import software
from genqual.records.fields import System
from genqual.records.outputs import KEPT, Outputs, tokens_sha256
from genqual.records.pseudonyms import PREFIX, Names
from genqual.records.record import CorruptRecord, Record
from genqual.records.schema import FILE, json_schema
from genqual.session import record_fields
from genqual.session.recorder import Recorder
from genqual.signing.dsse import sign
from genqual.signing.journal import noted
from genqual.signing.manifest import Manifest
from genqual.signing.verify import verify
from genqual.storage.spool import Spool
from tests.here import CPU
from tests.results.make import record, verdict
from tests.results.test_record import as_dict, rehashed

ROOT = Path(__file__).resolve().parents[2]

A100: dict[str, Any] = {
    "number": 0,
    "name": "NVIDIA A100-SXM4-80GB",
    "memory_bytes": 85_899_345_920,
    "uuid": "GPU-1234",
    "firmware": "92.00.45",
    "power_cap_w": 400.0,
    "clocks_mhz": {"sm": 1410, "memory": 1593},
}
FACTS: dict[str, Any] = {
    "vendor": "NVIDIA",
    "cpu_vendor": "AuthenticAMD",
    "memory_bytes": 2**40,
    "kernel": "6.8.0",
    "hypervisor": None,
    "cards": [A100, {**A100, "number": 1, "uuid": "GPU-5678", "power_cap_w": 350.0}],
    "drivers": ["570.1"],
    "cards_hidden": 6,
    "cards_unusable": 0,
}
IDENTITY = HardwareIdentity("cuda", "nvidia-a100-sxm4-80gb-2x-80g", FACTS)
NODE = Names("node-17.example", key="fleet")


def test_a_system_is_told_by_the_device_s_own_facts() -> None:
    system = System.of(IDENTITY, 2, names=NODE)
    assert (system.vendor, system.model, system.used, system.installed) == ("NVIDIA", "NVIDIA A100-SXM4-80GB", 2, 8)
    assert (system.memory_bytes, system.driver, system.firmware) == (85_899_345_920, "570.1", "92.00.45")
    assert (system.power_cap_w, system.clocks_mhz) == (350.0, {"sm": 1410, "memory": 1593})
    assert (system.kernel, system.hypervisor) == ("6.8.0", None)


def test_host_names_and_serial_numbers_are_hashed_by_default_and_the_same_each_time() -> None:
    system = System.of(IDENTITY, 2, names=NODE)
    text = system.model_dump_json()
    assert not [word for word in ("node-17", "GPU-1234", "GPU-5678") if word in text]
    assert system.host is not None
    assert system.host.startswith(PREFIX)
    uuids = [card["uuid"] for card in system.facts["cards"]]
    assert len({*uuids, system.host}) == 3
    assert System.of(IDENTITY, 2, names=NODE) == system
    assert System.of(IDENTITY, 2, names=Names("node-17.example", key="other")).host != system.host
    assert FACTS["cards"][0]["uuid"] == "GPU-1234"  # the device's own facts were copied


def test_names_are_plain_only_when_asked() -> None:
    system = System.of(IDENTITY, 2, names=Names("node-17.example", plain=True))
    assert (system.host, system.facts["cards"][0]["uuid"]) == ("node-17.example", "GPU-1234")


def test_a_message_does_not_name_the_host() -> None:
    said = NODE.text("[node-17.example]:rank 1 was lost")
    assert said == f"[{NODE.name('node-17.example')}]:rank 1 was lost"
    assert Names("vm").text("vmem of the vm") == "vmem of the vm"  # too short to be told from a word


def test_the_class_hash_is_of_the_hardware_and_not_of_the_host() -> None:
    ours = System.of(IDENTITY, 2, names=NODE)
    other = System.of(IDENTITY, 1, names=Names("elsewhere"))
    assert ours.class_sha256 == other.class_sha256 is not None
    changed = HardwareIdentity(
        "cuda", IDENTITY.class_id, {**FACTS, "cards": [{**A100, "name": "NVIDIA A100-PCIE"}] * 2}
    )
    assert System.of(changed, 2).class_sha256 != ours.class_sha256
    assert ours.model_copy(update={"hypervisor": "kvm"}).class_sha256 != ours.class_sha256


def test_a_class_hash_that_is_another_s_is_refused() -> None:
    forged = as_dict(record())
    forged["system"]["class_sha256"] = "0" * 64
    with pytest.raises(CorruptRecord, match="class_sha256 is not the hash"):
        Record.from_bytes(rehashed(forged))


def test_an_early_record_is_read_under_its_own_id_with_what_its_facts_tell() -> None:
    body = as_dict(record())
    facts = {
        "cpu_vendor": "GenuineIntel",
        "cpu_brand": "Xeon 6",
        "cores": 2,
        "memory_bytes": 2**34,
        "hypervisor": "kvm",
    }
    body["system"] = {"device": "xeon", "class_id": "xeon-6-2c", "used": 1, "facts": facts}
    body |= {"judgement": None, "outcome": {"status": "ok", "phase": None, "message": None}}  # nulls were written then
    raw = rehashed(body)
    read = Record.from_bytes(raw)
    assert read.id == json.loads(raw)["id"]
    assert json.loads(read.to_bytes()) == json.loads(raw)
    system = read.system
    assert (system.vendor, system.model, system.installed) == ("GenuineIntel", "Xeon 6", 2)
    assert (system.memory_bytes, system.hypervisor) == (2**34, "kvm")
    known = ("device", "class_id", "vendor", "model", "installed", "interconnect", "hypervisor")
    fields = {"class": "genqual-class/1", **{name: getattr(system, name) for name in known}}
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    assert system.class_sha256 == hashlib.sha256(text.encode()).hexdigest()


def test_a_null_that_is_a_default_is_not_written() -> None:
    kept = as_dict(record())
    assert "judgement" not in kept
    assert "offload" not in kept["engine"]
    nulled = record(metrics=(record().metrics[0].model_copy(update={"value": None}),))
    assert as_dict(nulled)["metrics"][0]["value"] is None  # a required one is


def test_the_published_schema_is_current_and_judges_as_the_model_does() -> None:
    published = json.loads((data_dir("baselines") / "schema" / FILE).read_text(encoding="utf-8"))
    assert published == json_schema(), "run `genqual schema > baselines/schema/record-1.0.json`"
    validator = jsonschema.Draft202012Validator(published)
    validator.check_schema(published)
    for made in (record(), verdict(), record(status="oom"), record(provenance="cited", source="a page")):
        validator.validate(as_dict(made))
    for path, value in (("attempt", 0), ("kind", "guess"), ("id", "x"), ("colour", "red"), ("schema", "genqual/2.0")):
        with pytest.raises(jsonschema.ValidationError):
            validator.validate(as_dict(record()) | {path: value})


def test_genqual_schema_prints_it() -> None:
    done = CliRunner().invoke(schema_command)
    assert (done.exit_code, json.loads(done.output)) == (0, json_schema())


def runs(count: int, rows: int, steps: int) -> list[Generated]:
    tokens = np.arange(rows * steps).reshape(rows, steps)
    times = np.arange(1, steps + 1) / 64
    return [Generated(tokens, times, float(times[-1]), 0.5, streamed=tokens[:, 0]) for _ in range(count)]


def test_outputs_keep_what_an_auditor_counts() -> None:
    kept = Outputs.of(runs(2, 3, 4), end_token=5)
    assert kept is not None
    assert kept.rows == ((0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11))
    assert kept.lengths == (4, 2, 4)  # row 1 ends at its second token
    assert kept.streamed == ((0, 4, 8),) * 2
    expected = hashlib.sha256(b"".join(number.to_bytes(8, "little") for number in range(12))).hexdigest()
    assert kept.runs_sha256 == (expected,) * 2 == (tokens_sha256(np.arange(12)),) * 2


def test_outputs_of_a_large_batch_keep_its_first_rows_and_every_length() -> None:
    kept = Outputs.of(runs(1, 64, 64))
    assert kept is not None
    assert len(kept.rows) * 64 == KEPT
    assert kept.lengths == (64,) * 64
    assert kept.streamed is not None
    assert len(kept.streamed[0]) == len(kept.rows)


def test_an_engine_that_does_not_stream_says_nothing_of_it() -> None:
    quiet = [Generated(np.ones((1, 2), dtype=np.int64), np.ones(2), 1.0, 0.5)]
    kept = Outputs.of(quiet)
    assert kept is not None
    assert kept.streamed is None
    assert Outputs.of([]) is None


CASE = Case("xeon", "transformers", "llama-tiny", "bf16")
INSPECTION: dict[str, Any] = {"cache": "DynamicCache", "generate": {"do_sample": False, "max_new_tokens": 9}}


@pytest.fixture
def recorder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    class Here:
        def identity(self) -> HardwareIdentity:
            return HardwareIdentity("xeon", "xeon-test", {"cpu_vendor": "GenuineIntel", "serial": "S1"})

    monkeypatch.setattr(record_fields, "devices", lambda: {"xeon": Here()})
    for cached in (record_fields._system, record_fields.names):
        cached.cache_clear()
    return Recorder(Spool(tmp_path / "spool"), "run-1", "pytest", tmp_path / "attempts.jsonl")


def measured(recorder: Recorder, **more: Any) -> Record:
    one = Measured("tpot", "s", 0.01, (0.01,), "median", "lower", "")
    path = recorder.measurement(
        CASE,
        Workload(2, 3, 4),
        {"tpot": one} if more.get("status", "ok") == "ok" else {},
        {},
        weights_sha256="a" * 64,
        protocol={"hook": "none"},
        inspection=INSPECTION,
        **more,
    )
    return Record.from_bytes(path.read_bytes())


def test_a_measurement_keeps_what_was_asked_and_what_came_of_it(recorder: Recorder) -> None:
    made = measured(recorder, runs=runs(2, 2, 4), peaks={"bf16_flop": 1e12})
    assert made.workload.batch_scope == "global"
    assert (made.workload.real_input_tokens, made.workload.real_new_tokens) == (6, 8)
    assert made.workload.generate_arguments == {"do_sample": False, "max_new_tokens": 4}
    assert (made.engine.kv_cache, made.engine.graphs) == ("dynamic", False)
    assert (made.system.peak_rates, made.system.host) == (
        {"bf16_flop": 1e12},
        record_fields.names().name(record_fields.names().host),
    )
    assert made.system.facts["serial"].startswith(PREFIX)
    assert (made.model.checkpoint, made.software.freeze_sha256 is None) == ("built", False)
    assert made.outputs is not None
    assert made.outputs.streamed == ((0, 4),) * 2


LOST = GroupLost(f"rank 1 on {record_fields.names().host} was killed by SIGKILL", None)


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (EngineFailed("all ranks raised"), "error", "EngineFailed: all ranks raised"),
        (Unsupported("no such kernel"), "unsupported", "Unsupported: no such kernel"),
        (OutOfMemory("no room to load"), "oom", "OutOfMemory: no room to load"),
        (OutOfMemoryKilled("rank 0 was killed", None), "oom", "OutOfMemoryKilled: rank 0 was killed"),
        (LOST, "error", f"GroupLost: {record_fields.names().text(LOST.headline)}"),
    ],
)
def test_an_attempt_without_numbers_leaves_a_record_and_its_note(
    recorder: Recorder, tmp_path: Path, error: BaseException, status: str, words: str
) -> None:
    workload = Workload(2, 3, 4)
    for _ in range(2):  # every item of the workload asks again, and gets the same failure
        with pytest.raises(type(error)), recorder.attempt(CASE, workload):
            raise error
    (path,) = (tmp_path / "spool").glob("*.json")
    made = Record.from_bytes(path.read_bytes())
    assert (made.outcome.status, made.outcome.message) == (status, words)
    notes = noted(tmp_path / "attempts.jsonl")
    assert (dict(notes.begun), notes.wrote) == ({f"{CASE} {workload.id}": 1}, [made.id])
    assert made.labels["subject"] in notes.begun
    assert not [one for one in verify([made], None, {}) if one.check == "completeness"]


def test_a_kill_in_the_middle_of_an_attempt_shows_in_the_manifest(recorder: Recorder, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), recorder.attempt(CASE, Workload(1, 3, 4)):
        raise KeyboardInterrupt
    with recorder.attempt(CASE, Workload(2, 3, 4)):
        made = measured(recorder, runs=runs(1, 2, 4))
    manifest = Manifest.of([made], started=noted(tmp_path / "attempts.jsonl").begun)
    found = verify([made], sign(manifest.to_bytes(), []), {})
    assert [(one.what, one.message) for one in found if one.check == "completeness"] == [
        (f"{CASE} b1-i3-n4", "1 attempts were begun, 0 left a record")
    ]


def test_the_tables_of_a_run_take_what_a_recorder_writes(recorder: Recorder) -> None:
    """Generate arguments are no key of a column: two runs of one workload stand in one."""
    made = [measured(recorder, runs=runs(1, 2, 4)) for _ in range(2)]
    page = io.StringIO()
    Console(file=page, width=120).print(performance_table(made, 120))
    assert page.getvalue().count("b2 i3") == 1


def test_a_second_measurement_is_a_second_attempt_under_the_same_key(recorder: Recorder) -> None:
    first, second = measured(recorder, runs=runs(1, 2, 4)), measured(recorder, runs=runs(1, 2, 4))
    assert (first.attempt, second.attempt) == (1, 2)
    assert first.key == second.key
    assert first.id != second.id


@pytest.mark.parametrize(
    ("message", "wanted"),
    [
        ("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0", int(2.5 * 2**30)),
        ("DefaultCPUAllocator: not enough memory: you tried to allocate 512 bytes", 512),
        ("the limit was met", None),
    ],
)
def test_out_of_memory_keeps_the_bytes_that_were_asked_for(
    recorder: Recorder, message: str, wanted: int | None
) -> None:
    outcome = measured(recorder, status="oom", message=message).outcome
    assert (outcome.status, outcome.bytes, outcome.message) == ("oom", wanted, message)


def test_a_container_says_its_digest_by_the_environment(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(record_fields.CONTAINER, f"sha256:{'b' * 64}")
    assert measured(recorder, runs=runs(1, 2, 4)).system.container_digest == f"sha256:{'b' * 64}"
    record_fields._system.cache_clear()
    monkeypatch.setenv(record_fields.CONTAINER, "latest")
    with pytest.raises(BadInput, match="GENQUAL_CONTAINER_DIGEST=latest: give an image's digest"):
        measured(recorder, runs=runs(1, 2, 4))


def test_the_source_hash_is_of_every_file_and_agrees_with_sha256sum() -> None:
    roots = {"plugins/genqual": "", "suites": "suites/", "fixtures": "fixtures/"}
    lines = []
    for top, prefix in roots.items():
        for path in (ROOT / top).rglob("*.py"):
            name = prefix + path.relative_to(ROOT / top).as_posix()
            lines.append(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n")
    assert software.source_sha256() == hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def test_the_commit_is_the_ci_s_word_or_git_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in software.COMMITS:
        monkeypatch.delenv(name, raising=False)
    assert software.facts(tmp_path)["commit"] is None
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "-q"], [*identity, "commit", "-q", "--allow-empty", "-m", "x"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True, timeout=30)
    head = subprocess.run(
        ["git", "-C", str(tmp_path), "rev-parse", "HEAD"], check=True, timeout=30, capture_output=True, text=True
    )
    assert software.facts(tmp_path)["commit"] == head.stdout.strip()
    monkeypatch.setenv("GITHUB_SHA", "f" * 40)
    assert software.facts(tmp_path)["commit"] == "f" * 40


@pytest.mark.parametrize(
    ("url", "commit", "expected"),
    [
        ("https://github.com/HabanaAI/DeepSpeed.git", "c" * 40, ("HabanaAI/DeepSpeed", "c" * 40)),
        (None, None, ("deepspeedai/DeepSpeed", None)),
    ],
)
def test_whose_deepspeed_it_is(
    url: str | None, commit: str | None, expected: tuple[str, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Distribution:
        version = "0.17.5"

        def read_text(self, name: str) -> str | None:
            return json.dumps({"url": url, "vcs_info": {"vcs": "git", "commit_id": commit}}) if url else None

    monkeypatch.setattr("importlib.metadata.distribution", lambda name: Distribution())
    monkeypatch.setattr(software, "_constant", lambda *names: "unknown")
    assert software._deepspeed() == expected


def test_what_is_used_is_what_the_ranks_are_bound_to() -> None:
    """Also where the device decides how many cores a rank gets, and for a case that no host could place."""
    cores = processor().probe().count

    def used(ranks: int, each: int) -> int:
        return record_fields._used(Case(CPU, "transformers", "llama-tiny", "fp32", ranks, each))

    assert (used(1, 1), used(2, 3), used(1, 0), used(cores + 1, 0)) == (1, 6, cores, cores + 1)
