"""What `genqual node` writes beside its document: a page that prints, a signature that a standard tool can check."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from genqual.cli import genqual
from genqual.health.finding import Finding, NodeVerdict, Outcome, Severity, Threshold, verdict_of
from genqual.health.page import page
from genqual.signing.dsse import pae

pytest.importorskip("cryptography")
BAD = Finding(
    check="throttle", entity="DIMM <A1>", outcome=Outcome.BAD, severity=Severity.FATAL, component="memory",
    action="replace the module", evidence="2 uncorrected errors & more", next_command="genqual node --level 2",
    signal=2.0, threshold=Threshold(value=0.0, unit="errors", source="none is allowed"),
)  # fmt: skip
GOOD = Finding(check="known_answers", entity="core 0", outcome=Outcome.OK, required=True, signal=0.0)


def verdict(*findings: Finding) -> NodeVerdict:
    return verdict_of(
        findings or (GOOD,), required=["known_answers"], node="node-7", hardware_class="xeon-6", level="1",
        began=datetime(2026, 11, 30, 8, 0, tzinfo=UTC), seconds=61.25,
    )  # fmt: skip


def openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], check=True, cwd=folder, capture_output=True)


@pytest.fixture
def room(tmp_path: Path) -> Path:
    """A document that is unfit, and two pairs of keys that openssl made."""
    (tmp_path / "node.json").write_text(verdict(GOOD, BAD).model_dump_json(indent=2))
    for name in ("ours", "theirs"):
        openssl(tmp_path, "genpkey", "-algorithm", "ed25519", "-out", f"{name}.pem")
        openssl(tmp_path, "pkey", "-in", f"{name}.pem", "-pubout", "-out", f"{name}.pub")
    return tmp_path


@pytest.fixture
def run(room: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.chdir(room)
    return lambda *words: CliRunner().invoke(genqual, [*words])


def test_a_signed_document_is_verified_by_openssl_and_by_genqual(run: Callable[..., Result], room: Path) -> None:
    done = run("node", "--document", "node.json", "--key", "ours.pem", "--signed", "out/signed.json")
    assert done.exit_code == 1, "the status is the document's: unfit"
    envelope = json.loads((room / "out" / "signed.json").read_text())
    payload = base64.b64decode(envelope["payload"])
    assert json.loads(payload) == json.loads((room / "node.json").read_text())
    (room / "message").write_bytes(pae(envelope["payloadType"], payload))
    (room / "signature").write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))
    words = ("pkeyutl", "-verify", "-pubin", "-rawin", "-in", "message", "-sigfile", "signature", "-inkey")
    openssl(room, *words, "ours.pub")
    with pytest.raises(subprocess.CalledProcessError):
        openssl(room, *words, "theirs.pub")
    told = run("verify", "out/signed.json", "--key", "ours.pub")
    assert told.exit_code == 0
    assert "node-7 (xeon-6) was unfit, level 1, 2026-11-30T08:00:00+00:00: signed, and nothing wrong was found" in (
        told.output
    )


def test_what_is_wrong_with_a_signed_document_is_named(run: Callable[..., Result], room: Path) -> None:
    run("node", "--document", "node.json", "--key", "ours.pem")
    signed = room / "node.signed.json"
    other = run("verify", "node.signed.json", "--key", "ours.pub", "--key", "theirs.pub")
    assert other.exit_code == 1
    assert "error: signature: not signed by theirs.pub" in other.output
    envelope = json.loads(signed.read_text())
    fit = base64.b64decode(envelope["payload"]).replace(b'"unfit"', b'"fit"')
    signed.write_text(json.dumps(envelope | {"payload": base64.b64encode(fit).decode()}))
    changed = run("verify", "node.signed.json", "--key", "ours.pub")
    assert changed.exit_code == 1
    assert "error: signature: not signed by ours.pub" in changed.output
    assert "contradicts its findings" in changed.output
    signed.write_text(json.dumps(envelope | {"signatures": []}))
    nobody = run("verify", "node.signed.json")
    assert nobody.exit_code == 1
    assert "nobody signed it" in nobody.output
    assert "it is not known whose signature it is" in nobody.output
    as_run = envelope | {"payloadType": "application/vnd.genqual.manifest+json"}
    signed.write_text(json.dumps(as_run))
    assert run("verify", "node.signed.json").exit_code != 0, "a document is no run's manifest"


def test_two_people_sign_one_document(run: Callable[..., Result]) -> None:
    assert run("node", "--document", "node.json", "--key", "ours.pem", "--key", "theirs.pem").exit_code == 1
    both = run("verify", "node.signed.json", "--key", "ours.pub", "--key", "theirs.pub")
    assert (both.exit_code, "errors" in both.output) == (0, False)
    again = run("node", "--document", "node.signed.json", "--page", "page.html")
    assert (again.exit_code, json.loads(again.stdout)["node"]) == (1, "node-7"), "a signed document is a document"


def test_the_page_says_all_of_it_worst_first_and_runs_nothing() -> None:
    text = page(verdict(GOOD, BAD), signed_by=["ab" * 32])
    assert '<span class="unfit">unfit</span>' in text
    for words in ("node-7", "xeon-6", "61 s", "2026-11-30T08:00:00+00:00", "2 uncorrected errors &amp; more"):
        assert words in text
    assert "DIMM &lt;A1&gt;" in text
    assert "DIMM <A1>" not in text
    assert "Do: replace the module" in text
    assert "A pass covers only the checks" in text
    assert text.index(">throttle<") < text.index(">known_answers (required)<"), "not by name"
    assert "<script" not in text
    assert "src=" not in text
    assert "ab" * 32 in text
    assert "nobody" in page(verdict())
    assert "Why it is unfit" not in page(verdict())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--document", "absent.json"), "absent.json: No such file"),
        (("--document", "ours.pem"), "no document of `genqual node`"),
        (("--document", "node.json", "--key", "ours.pub"), "no private key in PEM"),
        (("--document", "node.json", "--signed", "x.json"), "nothing signs it; give the private key with --key"),
    ],
)
def test_bad_input_ends_with_2_and_the_next_step(words: tuple[str, ...], said: str, run: Callable[..., Result]) -> None:
    done = run("node", *words)
    assert done.exit_code == 2
    assert said in done.stderr
    assert done.stdout == "", "no verdict"


def test_a_key_is_opened_before_the_minutes(run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any, **more: Any) -> None:
        raise AssertionError("it ran")

    monkeypatch.setattr("genqual.commands.node._run", never)
    assert run("node", "--key", "absent.pem").exit_code == 2


def test_a_page_that_cannot_be_written_loses_no_verdict(run: Callable[..., Result], room: Path) -> None:
    (room / "full").write_text("a file")
    done = run("node", "--document", "node.json", "--page", "full/page.html")
    assert done.exit_code == 2
    assert json.loads(done.stdout)["verdict"] == "unfit"
    assert "unfit, and not written: --page full/page.html" in done.stderr
