"""The campaign that looks for false alarms: what it counts, what it does not, and how it goes on."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from genqual.conformance.oracle.registry import supported
from tests.benchmarks import false_alarms
from tests.benchmarks.false_alarms import ENGINES, cells, known, main, table
from tests.listed import LISTED, SHALLOW

EAGER = "transformers:attn_implementation=eager"


def line(name: str, *, verdicts: dict[str, int], failed: tuple[str, ...] = (), **more: Any) -> dict[str, Any]:
    said = {"name": name, "engine": EAGER, "ranks": 1, "dtype": "fp32", "independent": True, "verdicts": verdicts}
    return said | {"failed": dict.fromkeys(failed, "why")} | more


def shown(*lines: dict[str, Any]) -> str:
    return table({(one["name"], one["engine"], one["ranks"], one["dtype"]): one for one in lines})


def test_what_passes_and_what_no_right_run_says_are_judgements() -> None:
    said = shown(
        line("llama", verdicts={"pass": 40, "not_applicable": 7}),
        line("gpt2", verdicts={"pass": 30, "fail": 1, "error": 2}, failed=("a", "b", "c")),
        line("mpt", verdicts={}, not_run="unsupported: no such layers"),
        line("opt", verdicts={"pass": 9}, independent=False),
    )
    assert f"| `{EAGER}` | 1 | fp32 | 2 | 73 | 3 | 2 |" in said
    assert "73 judgements of 4 checkpoints, 3 false alarms." in said
    assert f"- FAIL `gpt2 {EAGER} 1 fp32`: `a`, `b`, `c`" in said
    assert "unsupported: no such layers" in said


def test_upstream_s_own_error_is_listed_and_only_that_is_not_counted() -> None:
    known_error = ("logits_match_the_oracle", "positions_near_the_limit")
    said = shown(line("falcon-alibi", verdicts={"pass": 38, "fail": 2}, failed=known_error))
    assert "0 judgements of 1 checkpoints, 0 false alarms." in said
    assert "adds Falcon's ALiBi twice there" in " ".join(said.split())
    other = shown(line("falcon-alibi", verdicts={"pass": 38, "fail": 3}, failed=(*known_error, "a_length_is_kept")))
    assert "41 judgements of 1 checkpoints, 3 false alarms." in other
    assert "at most 7.50% at 95 %" in shown(line("llama", verdicts={"pass": 40}))


def test_upstream_s_error_on_an_engine_is_known_of_every_checkpoint_in_its_dtype() -> None:
    def said(name: str, dtype: str, *failed: str) -> str:
        cell = line(name, verdicts={"pass": 34, "fail": len(failed)}, failed=failed)
        found = cell | {"engine": "deepspeed-inference", "ranks": 2, "dtype": dtype}
        return table({(name, "deepspeed-inference", 2, dtype): found})

    far, held = "positions_near_the_limit", "what_was_asked_for_really_ran"
    assert "0 judgements of 1 checkpoints, 0 false alarms." in said("granite", "bf16", far)
    assert "35 judgements of 1 checkpoints, 1 false alarms." in said("granite", "fp32", far)
    assert "35 judgements of 1 checkpoints, 1 false alarms." in said("granite", "bf16", held)
    assert "0 judgements of 1 checkpoints, 0 false alarms." in said("deepseek_v3", "bf16", far, held)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[str]]:
    """Runs the campaign on llama and gpt2, eager, with a suite that passes one test a dtype; gives what was judged."""
    monkeypatch.setattr(false_alarms, "prepared", lambda room, name: (room / name, ""))

    def campaign(code: int = 0, said: str = "what pytest said", wrong: str = "") -> list[str]:
        judged: list[str] = []

        def passing(state: Path, *words: str, timeout: float) -> subprocess.CompletedProcess[str]:
            if code:
                return subprocess.CompletedProcess([], code, said, "")
            directory = next(word for word in words if word.startswith("--model=")).rpartition("/")[2]
            (state / "spool").mkdir(parents=True)
            for dtype in words[words.index("--dtype") + 1].split(","):
                judged.append(f"{directory} {dtype}")
                verdict = "fail" if wrong else "pass"
                judgement = {"verdict": verdict, "property": "a_length_is_kept", "explanation": wrong}
                record = {"judgement": judgement, "precision": {"dtype": dtype}}
                (state / "spool" / f"{dtype}.json").write_text(json.dumps(record))
            return subprocess.CompletedProcess([], code, said, "")

        monkeypatch.setattr(false_alarms, "suite", passing)
        words = ["--store", str(tmp_path / "store.jsonl"), "--only", "llama", "gpt2", "--engines", EAGER]
        assert main(words) == int(bool(wrong))
        return judged

    return campaign


@pytest.mark.parametrize("rest", [" Logs: /a/folder/of/mine", "\nTraceback (most recent call last):\n  File /a/file"])
def test_what_failed_is_kept_without_the_paths_of_this_machine(
    rest: str, asked: Callable[..., list[str]], tmp_path: Path
) -> None:
    asked(wrong=f"Step 3 is off.{rest}")
    assert {one["failed"]["a_length_is_kept"] for one in known(tmp_path / "store.jsonl").values()} == {"Step 3 is off."}


def test_it_goes_on_where_it_was_and_again_where_judges_changed(
    asked: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = [f"{name} {dtype}" for name in ("llama", "gpt2") for dtype in ("fp32", "bf16", "int8-weight")]
    assert asked() == everything
    assert asked() == []
    store = tmp_path / "store.jsonl"
    store.write_text(store.read_text()[:-20])  # cut off: the last cell is missing
    assert asked() == everything[-1:]
    assert len(known(store)) == 6
    monkeypatch.setattr(false_alarms, "versions", lambda: {"judges": "others"})
    assert asked() == everything


def test_what_passed_stricter_judges_is_not_judged_again_and_what_failed_them_is(
    asked: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked()
    store = tmp_path / "store.jsonl"
    lines = [json.loads(text) for text in store.read_text().splitlines()]
    lines[0] |= {"failed": {"a_length_is_kept": "why"}}
    store.write_text("".join(json.dumps(one) + "\n" for one in lines))
    before = lines[0]["versions"]
    monkeypatch.setattr(false_alarms, "STRICTER", {before["judges"]: "they asked more"})
    monkeypatch.setattr(false_alarms, "versions", lambda: before | {"judges": "of today"})
    assert asked() == ["llama fp32"]
    monkeypatch.setattr(false_alarms, "versions", lambda: before | {"judges": "of today", "torch": "another"})
    assert len(asked()) == 6, "they judged another torch"


@pytest.mark.parametrize(("name", "lenient", "holds"), [
    ("mixtral", True, False), ("mixtral-2-layers", True, False), ("llama", True, True), ("mixtral", False, True),
])  # fmt: skip
def test_of_judges_that_were_lenient_to_experts_only_cells_without_experts_hold(
    name: str, lenient: bool, holds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = false_alarms.versions()
    monkeypatch.setattr(false_alarms, "STRICTER", {"earlier": "why"})
    monkeypatch.setattr(false_alarms, "LENIENT", {"earlier"} if lenient else set())
    cell = {"name": name, "failed": {}, "versions": now | {"judges": "earlier"}}
    assert false_alarms.still_holds(cell) == holds
    assert false_alarms.still_holds(cell | {"versions": now})


def test_where_upstream_ends_every_pass_with_an_exception_nothing_is_counted_and_a_failure_is() -> None:
    def said(**verdicts: int) -> str:
        cell = line("falcon-alibi", verdicts=verdicts, failed=("a", "b"), engine="transformers:graphs=static")
        return " ".join(shown(cell).split())

    assert "0 judgements of 1 checkpoints, 0 false alarms." in said(error=38)
    assert "every pass ends with an exception" in said(error=38)
    assert "39 judgements of 1 checkpoints, 39 false alarms." in said(error=38, fail=1)


def test_a_pytest_that_was_killed_leaves_no_cell(asked: Callable[..., list[str]], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="pytest ended with -15: what pytest said"):
        asked(code=-15)
    assert known(tmp_path / "store.jsonl") == {}


def test_what_upstream_cannot_run_is_a_cell_that_says_so(asked: Callable[..., list[str]], tmp_path: Path) -> None:
    asked(code=4, said="ERROR: nothing can run as the options ask: transformers has no plan for GPT-2\n")
    found = known(tmp_path / "store.jsonl")
    assert len(found) == 6
    assert {one["not_run"] for one in found.values()} == {"transformers has no plan for GPT-2"}
    assert asked() == [], "nor is it asked again"


def test_every_architecture_is_there_and_has_one_checkpoint_that_is_compiled() -> None:
    architectures = {architecture for architecture, _ in LISTED.values()}
    assert architectures == {*supported()}
    assert architectures <= LISTED.keys()
    assert {engine for engine, _, _ in ENGINES} >= {EAGER, "transformers-compiled:dynamic=true", "transformers-tp"}


def test_what_is_compiled_has_two_layers() -> None:
    compiled = [name for name, engine, _, _ in cells([*LISTED], ["transformers-compiled:dynamic=true"])]
    assert compiled == [f"{name}-2-layers" for name, (architecture, _) in LISTED.items() if name == architecture]
    assert set(compiled) == SHALLOW.keys()
    assert {changes["num_hidden_layers"] for _, changes in SHALLOW.values()} == {2}
