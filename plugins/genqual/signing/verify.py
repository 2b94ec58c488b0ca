"""Check a run's records against its manifest and themselves. Pure: what was read in, findings out; opens nothing."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from genqual import digest
from genqual.errors import BadInput
from genqual.records.fields import GROWING, OF_A_REQUEST
from genqual.records.record import Record
from genqual.signing.audit import audit
from genqual.signing.dsse import PAYLOAD_TYPE, Envelope, keyid
from genqual.signing.manifest import Manifest, chain, claim_of, subject_of

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

GATED: Final = frozenset({"pass", "regressed", "improved"})
PATH: Final = ("hardware", "engine", "model", "dtype")
_CHANGING: Final = GROWING | OF_A_REQUEST | {"preflight"}  # counts and free memory, not the path


@dataclass(frozen=True, slots=True)
class SignatureFinding:
    """Something wrong (`error`), or something that is not known (`note`), about `what`."""

    check: str
    what: str
    message: str
    grade: Literal["error", "note"] = "error"

    def __str__(self) -> str:
        return f"{self.grade}: {self.check}: {self.what}: {self.message}"


def verify(
    records: Sequence[Record],
    envelope: Envelope | None,
    keys: Mapping[str, Ed25519PublicKey],
    damaged: Iterable[tuple[str, str]] = (),
) -> list[SignatureFinding]:
    """Every finding, errors first. `keys` are those trusted, by the name they were given under; `damaged` are
    (place, reason) of what could not be read as a record.
    """
    found = [SignatureFinding("hash", place, reason) for place, reason in damaged]
    if envelope is None:
        found.append(
            SignatureFinding("signature", "the run", "it is not signed: nobody vouches that these are all its records")
        )
        found += _attempts(records)
    else:
        found += _signatures(envelope, keys)
        try:
            manifest = Manifest.from_bytes(envelope.payload)
        except BadInput as error:
            found.append(SignatureFinding("manifest", "the envelope", str(error)))
        else:
            found += _against(manifest, records)
    found += _judged_path(records)
    for record in records:
        found += (
            SignatureFinding(check, _name(record), flaw, "note" if check == "outputs" else "error")
            for check, flaw in audit(record)
        )
    return sorted(found, key=lambda finding: finding.grade != "error")


def _signatures(envelope: Envelope, keys: Mapping[str, Ed25519PublicKey]) -> Iterator[SignatureFinding]:
    if envelope.payload_type != PAYLOAD_TYPE:
        yield SignatureFinding(
            "signature", "the envelope", f"its payload is a {envelope.payload_type}, not a {PAYLOAD_TYPE}"
        )
    if not envelope.signatures:
        yield SignatureFinding("signature", "the envelope", "it holds no signature")
    for name, key in keys.items():
        if not envelope.signed_by(key):
            claimed = keyid(key) in [keyid_ for keyid_, _ in envelope.signatures]
            why = "the signature does not fit the manifest" if claimed else "nothing here is signed by it"
            yield SignatureFinding("signature", f"key {name} ({keyid(key)[:16]})", why)
    if not keys:
        ids = ", ".join(keyid_[:16] for keyid_, _ in envelope.signatures) or "nobody"
        yield SignatureFinding(
            "signature", "the run", f"signed by {ids}; give --key PUBLIC.pem to know whether that is true"
        )


def _against(manifest: Manifest, records: Sequence[Record]) -> Iterator[SignatureFinding]:
    """What the manifest promises and the records do not keep."""
    run = f"run {manifest.run}"
    ids = [entry.id for entry in manifest.records]
    if [entry.link for entry in manifest.records] != chain(manifest.run, ids):
        yield SignatureFinding(
            "chain", run, "the links are not those of the ids: one was changed, left out, added or moved"
        )
    here = {record.id: record for record in records}
    for entry in manifest.records:
        if entry.id not in here:
            what = f"attempt {entry.attempt} at {entry.key[:12]} ({entry.kind}, {entry.status})"
            yield SignatureFinding("completeness", f"record {entry.id[:12]}", f"{what} is in the manifest and not here")
    for record in records:
        if record.id not in set(ids):
            yield SignatureFinding("completeness", _name(record), "it is here and not in the manifest")
    yield from _gaps(manifest.run, ((entry.key, entry.attempt) for entry in manifest.records))
    kept = Counter(subject_of(record) for record in records)
    for subject, begun in sorted(manifest.started.items()):
        if kept[subject] < begun:
            yield SignatureFinding(
                "completeness", subject, f"{begun} attempts were begun, {kept[subject]} left a record"
            )
    if manifest.claim == "measured" and claim_of(records) == "simulated":
        yield SignatureFinding("provenance", run, "it is signed as measured, and holds simulated records")
    for entry in manifest.records:
        known = here.get(entry.id)
        if known is not None and known.provenance.kind != entry.provenance:
            yield SignatureFinding("provenance", _name(known), f"the manifest says {entry.provenance}")
    sources = {record.software.source_sha256 for record in records} - {None, manifest.source_sha256}
    if sources and manifest.source_sha256 is not None:
        yield SignatureFinding("suite", run, "records were made by other sources of the suite than the manifest names")


def _attempts(records: Sequence[Record]) -> Iterator[SignatureFinding]:
    for run in sorted({record.run for record in records}):
        yield from _gaps(run, ((record.key, record.attempt) for record in records if record.run == run))


def _gaps(run: str, attempts: Iterable[tuple[str, int]]) -> Iterator[SignatureFinding]:
    """Attempts count from 1: a gap is one that somebody left out."""
    seen: dict[str, set[int]] = defaultdict(set)
    for key, attempt in attempts:
        seen[key].add(attempt)
    for key, numbers in sorted(seen.items()):
        missing = sorted(set(range(1, max(numbers) + 1)) - numbers)
        if missing:
            yield SignatureFinding(
                "completeness", f"run {run}", f"attempt {missing[0]} at {key[:12]} is missing, {max(numbers)} is here"
            )


def _judged_path(records: Sequence[Record]) -> Iterator[SignatureFinding]:
    """A latency counts only where the same path, of the same run, was judged and found right."""
    judged: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in records:
        if record.kind == "judgement":
            judged[record.run, record.key_of(*PATH)].append(record)
    for record in records:
        if record.kind != "measurement" or record.outcome.status != "ok" or record.provenance.kind != "measured":
            continue
        gated = any(metric.gate is not None and metric.gate.verdict in GATED for metric in record.metrics)
        beside = judged[record.run, record.key_of(*PATH)]
        verdicts = {one.judgement.verdict for one in beside if one.judgement is not None}
        grade: Literal["error", "note"] = "error" if gated else "note"
        if "fail" in verdicts:
            yield SignatureFinding(
                "judged path", _name(record), "outputs of this very configuration were judged wrong in this run"
            )
        elif "pass" not in verdicts:
            yield SignatureFinding("judged path", _name(record), "nothing of this run judged its outputs right", grade)
        elif path_of(record) not in {path_of(one) for one in beside}:
            yield SignatureFinding(
                "judged path", _name(record), "what was timed is not what was judged: the engine's inspection differs"
            )
        if record.protocol.get("hook", "none") != "none":
            yield SignatureFinding(
                "judged path", _name(record), f"it was timed with a hook: {record.protocol['hook']}", grade
            )


def path_of(record: Record) -> str:
    """What the engine said runs, without the counts that grow as it runs."""
    told: dict[str, Any] = record.engine.inspection
    return digest.of_json({name: value for name, value in told.items() if name not in _CHANGING})


def _name(record: Record) -> str:
    label = f"{record.model.name} {record.precision.dtype} {record.engine.label} {record.workload.label}"
    return f"record {record.id[:12]} ({label})"
