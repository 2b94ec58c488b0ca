"""`genqual sign` and `genqual verify`. Reads records and keys; measures nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from genqual.errors import BadInput
from genqual.health import signed as node_document
from genqual.records.record import Record
from genqual.signing import sign_run
from genqual.signing.dsse import Envelope, keyid, private_key, public_key
from genqual.signing.dsse import sign as sign_payload
from genqual.signing.manifest import Manifest
from genqual.signing.verify import SignatureFinding
from genqual.signing.verify import verify as verify_records
from genqual.storage.record_dir import SetAside
from genqual.storage.spool import Spool

_FILE = click.Path(path_type=Path, dir_okay=False)
# What makes a signature a lie; a run that judged wrong may be signed as the wrong run it is.
_UNTRUE = frozenset(
    {"hash", "chain", "completeness", "provenance", "manifest", "token count", "first token", "samples"}
)


@click.command()
@click.argument("run", required=False)
@click.option(
    "--key", "keys", type=_FILE, multiple=True, required=True, help="Ed25519 private key, PEM; may be repeated."
)
@click.option("--state-dir", type=click.Path(path_type=Path), default=Path(".genqual"), show_default=True)
@click.option("--out", type=_FILE, help="Where the signed session goes; default: STATE/signed/RUN.jsonl.")
@click.option("--simulated", is_flag=True, help="Sign a run with simulated records, as simulated.")
def sign(run: str | None, keys: tuple[Path, ...], state_dir: Path, out: Path | None, simulated: bool) -> None:
    """Sign what one run recorded: a DSSE envelope over its manifest, and the records, in one file.

    RUN is the run's name or its beginning; without it, the newest run is signed. The manifest was written when the run
    ended: it chains the ids of all records, and holds the suite's version and source hash, the attempts that were
    begun, hashes of the logs, and what the probes found. What does not agree with it is not signed.

    \b
      openssl genpkey -algorithm ed25519 -out key.pem
      openssl pkey -in key.pem -pubout -out key.pub
      genqual sign --key key.pem
      genqual verify .genqual/signed/RUN.jsonl --key key.pub

    An encrypted key is opened with $GENQUAL_KEY_PASSPHRASE. docs/trust.md says what a signature proves.
    """
    manifest = Manifest.from_bytes(_manifest(state_dir, run).read_bytes())
    if manifest.claim == "simulated" and not simulated:
        count = sum(entry.provenance == "simulated" for entry in manifest.records)
        raise BadInput(
            f"run {manifest.run} holds {count} simulated records, which cannot be signed as measured:"
            " --simulated signs them as what they are"
        )
    records, damaged = _spooled(state_dir, manifest)
    opened = [private_key(path) for path in keys]
    envelope = sign_payload(manifest.to_bytes(), opened)
    found = verify_records(
        records, envelope, {keyid(key.public_key())[:16]: key.public_key() for key in opened}, damaged
    )
    untrue = [finding for finding in found if finding.grade == "error" and finding.check in _UNTRUE]
    for finding in found:
        click.echo(str(finding), err=True)
    if untrue:
        raise BadInput(
            f"run {manifest.run} is not signed: {len(untrue)} findings above say that it is not what it seems"
        )
    target = out or state_dir / "signed" / f"{manifest.run}.jsonl"
    sign_run.write(target, envelope, records)
    ids = ", ".join(keyid_[:16] for keyid_, _ in envelope.signatures)
    click.echo(f"{target}: {len(records)} records of run {manifest.run}, {manifest.claim}, signed by {ids}")


@click.command()
@click.argument("source", metavar="FILE|URL")
@click.option("--key", "keys", type=_FILE, multiple=True, help="Ed25519 public key, PEM, that must have signed it.")
@click.option("--envelope", type=_FILE, help="The signed session or envelope, where FILE|URL holds records only.")
@click.option(
    "--unsigned", is_flag=True, help="Check everything but the signature. A missing signature is not an error."
)
def verify(source: str, keys: tuple[Path, ...], envelope: Path | None, unsigned: bool) -> None:
    """Check a run: signatures, hashes, completeness, the judged path, and audits of each measurement.

    \b
    FILE|URL is a signed session, a spool, a file of records, or any sink, such as
      .genqual/signed/3f2a.jsonl
      node.signed.json                          what `genqual node --key` wrote
      postgresql://reader@db/genqual#run=3f2a   with --envelope 3f2a.jsonl
    \b
    Exit code 0: nothing wrong was found. 1: each finding is named, errors first.
    Notes are what is not known, such as a latency that no baseline gated.
    """
    if (document := node_document.envelope_at(Path(source).expanduser())) is not None:
        _verify_node(document, keys, source)
        return
    found = sign_run.read(source, envelope)
    trusted = {path.name: public_key(path) for path in keys}
    findings = verify_records(found.records, found.envelope, trusted, found.damaged)
    if unsigned and found.envelope is None:
        findings = [finding for finding in findings if finding.check != "signature"]
    for finding in findings:
        click.echo(str(finding))
    errors = sum(finding.grade == "error" for finding in findings)
    click.echo(f"{len(found.records)} records checked: {_summary(errors, findings, found.envelope is not None)}")
    if errors:
        sys.exit(1)


def _verify_node(envelope: Envelope, keys: tuple[Path, ...], source: str) -> None:
    """Say what a signed document of a node is worth; exit 1 where something is wrong with it, whatever its verdict."""
    verdict, problems = node_document.check(envelope, {path.name: public_key(path) for path in keys}, source)
    for problem in problems:
        click.echo(f"error: {problem}")
    if not keys:
        click.echo("note: no --key was given, so it is not known whose signature it is")
    if verdict is not None:
        began = verdict.began.isoformat(timespec="seconds")
        said = f"{verdict.node} ({verdict.hardware_class}) was {verdict.verdict}, level {verdict.level}, {began}"
        click.echo(f"{said}: " + (f"{len(problems)} errors" if problems else "signed, and nothing wrong was found"))
    if problems:
        sys.exit(1)


def _summary(errors: int, findings: list[SignatureFinding], signed: bool) -> str:
    notes = len(findings) - errors
    verdict = (
        f"{errors} errors"
        if errors
        else ("signed, and nothing wrong was found" if signed else "nothing wrong was found")
    )
    return verdict + (f", {notes} notes" if notes else "")


def _manifest(state: Path, run: str | None) -> Path:
    known = [path for path in sign_run.runs(state) if run is None or path.stem.startswith(run)]
    if not known:
        wanted = f"no run {run}" if run else "no run"
        raise BadInput(f"{state / 'manifests'}: {wanted} there; a run leaves its manifest when it ends (--state-dir)")
    if run is not None and len(known) > 1:
        raise BadInput(f"{run} is the beginning of {len(known)} runs: {', '.join(path.stem for path in known[:5])}")
    return known[-1]


def _spooled(state: Path, manifest: Manifest) -> tuple[list[Record], list[tuple[str, str]]]:
    """The records of the manifest from the spool, in its order, and what could not be read."""
    spool = Spool(state / "spool")
    records, damaged = [], []
    for entry in manifest.records:
        places = [place for place in spool.places if place.has(entry.id)]
        if not places:
            continue  # `verify` names it
        one = places[0].read(entry.id)
        if isinstance(one, SetAside):
            damaged.append((str(one.path), one.reason))
        else:
            records.append(one)
    return records, damaged
