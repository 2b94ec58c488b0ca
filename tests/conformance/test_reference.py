"""References: what `make` keeps, and what the files survive and refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genqual.atomic import write_whole
from genqual.conformance.oracle.registry import oracle_for, source_sha256
from genqual.conformance.references import file
from genqual.conformance.references.make import Reference, check_weights, history, make, read, write
from genqual.engines.projection import project
from genqual.errors import BadInput

from .pretend import PROMPTS, STEPS, TableOracle, forced_logits, referred, table
from .small import BLOOM, LLAMA, parameters

ARRAYS = ("tokens", "margins", "top_ids", "top_logits", "logsumexp", "spread", "projections")


def assert_same(a: Reference, b: Reference) -> None:
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
        assert getattr(a, name).dtype == getattr(b, name).dtype, name
    for name in ("model", "weights_sha256", "vocabulary", "prompts", "independent"):
        assert getattr(a, name) == getattr(b, name), name
    assert dict(a.generator) == dict(b.generator)
    assert a.envelopes.keys() == b.envelopes.keys()
    for scheme, envelope in a.envelopes.items():
        other = b.envelopes[scheme]
        assert (envelope.nrms, envelope.fault_free_runs) == (other.nrms, other.fault_free_runs)
        np.testing.assert_array_equal(envelope.sigma, other.sigma)
        np.testing.assert_array_equal(envelope.errors, other.errors)


@pytest.mark.parametrize("config", [LLAMA, BLOOM], ids=["llama", "bloom"])
def test_a_reference_holds_what_the_full_pass_says(config: dict[str, object]) -> None:
    oracle, prompts = oracle_for(config, parameters(config)), [[7, 8, 9], [10]]
    reference = make("small", "a" * 64, oracle, prompts, 5)
    assert (reference.steps, reference.rows, reference.longest) == (5, 2, 8)
    for row, prompt in enumerate(prompts):
        ids = list(prompt)
        for step in range(5):
            logits = oracle.logits(ids)[-1]
            order = np.sort(logits)[::-1]
            assert reference.tokens[step, row] == logits.argmax()
            assert reference.margins[step, row] == pytest.approx(order[0] - order[1], abs=1e-12)
            np.testing.assert_allclose(reference.top_logits[step, row], order[:16], atol=1e-12)
            np.testing.assert_allclose(logits[reference.top_ids[step, row]], order[:16], atol=1e-12)
            assert reference.logsumexp[step, row] == pytest.approx(np.log(np.exp(logits).sum()))
            assert reference.spread[step, row] == pytest.approx(logits.std())
            np.testing.assert_allclose(reference.projections[step, row], project(logits), atol=1e-6)
            ids.append(int(logits.argmax()))
    assert reference.forced.tolist() == reference.tokens.T.tolist()
    assert reference.generator["oracle_sha256"] == source_sha256(str(config["model_type"]))
    assert reference.independent


def test_an_oracle_whose_two_passes_disagree_makes_no_reference() -> None:
    class Wrong(TableOracle):
        def greedy(self, prompt: Any, steps: int) -> Any:
            tokens = super().greedy(prompt, steps)
            tokens[2] = (tokens[2] + 1) % self.vocabulary
            return tokens

    with pytest.raises(BadInput, match="prompt 0, step 2"):
        make("wrong", "0", Wrong(table()), PROMPTS, STEPS)


@pytest.mark.parametrize(("prompts", "steps"), [([], 3), (PROMPTS, 0)])
def test_nothing_to_generate_makes_no_reference(prompts: list[list[int]], steps: int) -> None:
    with pytest.raises(BadInput, match="at least one"):
        make("none", "0", TableOracle(table()), prompts, steps)


def test_logits_that_are_not_finite_make_no_reference() -> None:
    with pytest.raises(BadInput, match="not finite"):
        make("nan", "0", TableOracle(np.where(table() > 2, np.nan, table())), PROMPTS, STEPS)


def test_an_oracle_that_shares_code_is_marked() -> None:
    shared = TableOracle(table())
    shared.independent = False
    assert not make("shared", "0", shared, PROMPTS, STEPS).independent


def test_a_selection_is_the_reference_of_its_rows_and_steps(tmp_path: Path) -> None:
    whole, _ = referred()
    part = whole.select(rows=[2, 0], steps=4)
    alone = make("table", "f" * 64, TableOracle(table()), [PROMPTS[2], PROMPTS[0]], 4)
    assert_same(replace(part, envelopes={}), alone)
    envelope = part.envelopes["bf16"]
    np.testing.assert_array_equal(envelope.errors, whole.envelopes["bf16"].errors[:, :4, [2, 0]])
    np.testing.assert_array_equal(envelope.sigma, whole.envelopes["bf16"].sigma[:4])
    pooled = np.sqrt((envelope.errors**2).mean(axis=(1, 2)).max()) / part.pooled_spread
    assert envelope.nrms == pytest.approx(pooled)
    wrong: list[dict[str, Any]] = [{"rows": [3]}, {"rows": []}, {"rows": [-1]}, {"steps": 7}, {"steps": 0}]
    for bad in wrong:
        with pytest.raises(BadInput, match="has 3 and 6"):
            whole.select(**bad)


def test_a_reference_comes_back_from_its_files(tmp_path: Path) -> None:
    whole, logits = referred()
    digest = write(whole, tmp_path / "table")
    back = read(tmp_path / "table")
    assert_same(back, whole)
    assert back.sha256 == digest
    np.testing.assert_array_equal(forced_logits(TableOracle(table()), back), logits)
    text = (tmp_path / "table" / "reference.json").read_text()
    assert json.loads(text)["prompts"] == PROMPTS
    assert max(map(len, text.splitlines())) < 500
    assert sorted(path.name for path in (tmp_path / "table").iterdir()) == ["reference.json", "reference.safetensors"]


def test_the_same_reference_is_not_written_twice(tmp_path: Path) -> None:
    whole, _ = referred()
    digest = write(whole, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert write(read(tmp_path), tmp_path) == digest
    assert write(whole, tmp_path, reason="no change at all") == digest
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    assert history(tmp_path) == []


def test_a_tolerance_is_added_without_a_reason_and_noted(tmp_path: Path) -> None:
    """What the command says that a NO REFERENCE advises: nothing that was judged before is judged otherwise."""
    whole, _ = referred()
    (scheme,) = whole.envelopes
    one = write(replace(whole, envelopes={}), tmp_path)
    two = write(whole, tmp_path)
    assert history(tmp_path) == [{"reason": f"tolerance of {scheme} added", "previous": one}]
    assert_same(read(tmp_path), whole)
    wider = replace(whole.envelopes[scheme], errors=2.0 * whole.envelopes[scheme].errors)
    more = {scheme: replace(wider, nrms=2.0 * wider.nrms), "fp16": whole.envelopes[scheme]}
    with pytest.raises(BadInput, match="another reference of these weights, made as table"):
        write(replace(whole, envelopes=more), tmp_path)
    others = {**whole.generator, "prompts": "others"}
    with pytest.raises(BadInput, match="another reference of these weights, made as table"):
        write(replace(whole, generator=others, envelopes={**whole.envelopes, "fp16": wider}), tmp_path)
    assert read(tmp_path).sha256 == two
    assert write(replace(whole, model="chair"), tmp_path) == two, "the same under another name"


def test_another_reference_replaces_one_only_for_a_reason(tmp_path: Path) -> None:
    first, _ = referred()
    one = write(first, tmp_path)
    for reason in (None, "", "  "):
        with pytest.raises(BadInput, match=f"another reference of these weights, made as table.*{one[:12]}"):
            write(replace(first, envelopes={}), tmp_path, reason=reason)
    assert_same(read(tmp_path), first)
    two = write(replace(first, envelopes={}), tmp_path, reason="the envelope was of a broken run")
    three = write(first, tmp_path, reason="and now it is back")
    assert history(tmp_path) == [
        {"reason": "the envelope was of a broken run", "previous": one},
        {"reason": "and now it is back", "previous": two},
    ]
    assert read(tmp_path).sha256 == three != one
    assert_same(read(tmp_path), first)


def _cut(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])

    return damage


def _gone(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _one_bit(folder: Path) -> None:
    data = bytearray((folder / "reference.safetensors").read_bytes())
    data[-5] ^= 1
    (folder / "reference.safetensors").write_bytes(bytes(data))


def _edit(key: str, value: object, *, sign: bool = False) -> Callable[[Path], None]:
    """Change one entry; with `sign`, hash the file anew, as a program that knows the format would."""

    def damage(folder: Path) -> None:
        content = json.loads((folder / "reference.json").read_text())
        content[key] = value
        if sign:
            content["sha256"] = file._digest(content)
        (folder / "reference.json").write_text(json.dumps(content))

    return damage


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_gone("reference.json"), "no reference at"),
        (_gone("reference.safetensors"), "is missing"),
        (_cut("reference.json"), "no JSON"),
        (_cut("reference.safetensors"), "SHA-256"),
        (_one_bit, "SHA-256"),
        (_edit("model", "other"), "edited by hand"),
        (_edit("envelopes", {}), "edited by hand"),
        (_edit("history", [{"reason": "trust me", "previous": "0"}]), "edited by hand"),
        (_edit("version", 2), "of version 2, this genqual reads 1"),
        (_edit("version", "1"), "no reference of genqual"),
        (_edit("format", "else"), "no reference of genqual"),
        (_edit("arrays", {}, sign=True), "not a whole reference"),
        (_edit("prompts", [[1]], sign=True), "not a whole reference"),
        (_edit("envelopes", {"fp16": {"nrms": 1.0, "honest_runs": ["?"]}}, sign=True), "not a whole reference"),
        (lambda folder: (folder / "reference.json").write_text("[]"), "no reference of genqual"),
    ],
)
def test_damaged_files_are_refused_and_not_overwritten(
    tmp_path: Path, damage: Callable[[Path], None], words: str
) -> None:
    whole, _ = referred()
    write(whole, tmp_path)
    damage(tmp_path)
    with pytest.raises(BadInput, match=words):
        read(tmp_path)
    with pytest.raises(BadInput, match=words):
        write(whole, tmp_path, reason="whatever is there")


def test_a_crash_between_the_two_files_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = referred()
    write(first, tmp_path)
    plain = write_whole

    def crash(path: Path, data: bytes) -> None:
        if path.name == "reference.json":
            raise KeyboardInterrupt
        plain(path, data)

    monkeypatch.setattr(file, "write_whole", crash)
    with pytest.raises(KeyboardInterrupt):
        write(replace(first, envelopes={}), tmp_path, reason="interrupted")
    with pytest.raises(BadInput, match="SHA-256"):
        read(tmp_path)


def test_weights_other_than_the_reference_s_are_named() -> None:
    whole, _ = referred()
    check_weights(whole, "f" * 64)
    with pytest.raises(BadInput, match=f"{'f' * 64}.*{'e' * 64}"):
        check_weights(whole, "e" * 64)


@pytest.mark.parametrize(
    "change",
    [
        {"margins": np.ones((STEPS, 2))},
        {"margins": -np.ones((STEPS, 3))},
        {"logsumexp": np.full((STEPS, 3), np.nan)},
        {"tokens": np.zeros((STEPS, 3), np.int64)},
        {"prompts": ((1,), (2,), ())},
        {"spread": np.zeros((STEPS, 3))},
    ],
)
def test_a_reference_that_contradicts_itself_cannot_be_built(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"margins|logsumexp|tokens|spread"):
        replace(referred()[0], **change)
