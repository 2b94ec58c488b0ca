"""What fails is the newest word on its configuration: in every table, in place of the older numbers."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from genqual.analysis.accuracy import Accuracy
from genqual.analysis.cells import cells
from genqual.analysis.compare import compare
from genqual.analysis.report.decide import Asked, refusal
from genqual.analysis.report.rows import rows
from genqual.cases import Case, Workload
from genqual.conformance.judgement import Judgement
from genqual.devices.base import HardwareIdentity
from genqual.engines.base import TokenBatch
from genqual.errors import BadInput, EngineFailed, OutOfMemory, Unsupported
from genqual.metrics.compute import BadClock
from genqual.metrics.compute import Measured as Measured
from genqual.ranks.errors import GroupLost, RankState
from genqual.records.record import Record
from genqual.session import max_batch, record_fields
from genqual.session.recorder import Recorder
from genqual.signing.journal import noted
from genqual.storage.sources import load
from genqual.storage.spool import Spool
from tests.results.make import record, verdict

CASE = Case("xeon", "transformers", "llama-tiny", "bf16")
ASKED = Workload(2, 3, 4)
WEIGHTS = "a" * 64
PROTOCOL: dict[str, Any] = {"warmup": 1, "repetitions": 3, "hook": "none"}
INSPECTION: dict[str, Any] = {"cache": "DynamicCache", "graphs": "none", "offload": "cpu", "generate": {"k": 1}}
HUNG = GroupLost("rank 0 gave no answer", None, [RankState(0, "silent", "gave no answer")], timed_out=True)
KILLED = GroupLost("rank 0 was killed by SIGKILL", RankState(0, "died", "was killed by SIGKILL"))
TOLD = [
    (EngineFailed("all ranks raised"), "error"),
    (BadClock("a step took no time"), "error"),
    (BadInput("no such option"), "error"),
    (Unsupported("no such kernel"), "unsupported"),
    (OutOfMemory("tried to allocate 2.00 GiB"), "oom"),
    (HUNG, "timeout"),
    (KILLED, "error"),
]


@pytest.fixture
def recorder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Recorder]:
    """By the name of its run."""

    class Here:
        def identity(self) -> HardwareIdentity:
            return HardwareIdentity("xeon", "xeon-test", {"cpu_vendor": "GenuineIntel"})

        def place(self, ranks: int, cores: int) -> Any:
            raise BadInput("not placed here")

    monkeypatch.setattr(record_fields, "devices", lambda: {"xeon": Here()})
    record_fields._system.cache_clear()
    record_fields._used.cache_clear()
    spool = Spool(tmp_path / "spool")
    return lambda run: Recorder(spool, run, "pytest", tmp_path / f"{run}.jsonl")


def measure(recorder: Recorder, case: Case = CASE, protocol: dict[str, Any] = PROTOCOL) -> None:
    metric = Measured("tpot", "s", 0.04, (0.04,), "median", "lower", "")
    recorder.measurement(
        case, ASKED, {"tpot": metric}, {}, weights_sha256=WEIGHTS, protocol=protocol, inspection=INSPECTION
    )


def fail(recorder: Recorder, error: BaseException, *, loaded: bool, protocol: dict[str, Any] = PROTOCOL) -> None:
    """`loaded`: the ranks live on after the failure, and say what they run."""
    inspect = (lambda: INSPECTION) if loaded else dict
    with (
        pytest.raises(type(error)),
        recorder.attempt(CASE, ASKED, weights_sha256=WEIGHTS, protocol=protocol, inspect=inspect),
    ):
        raise error


def newest(tmp_path: Path) -> list[Record]:
    """As `genqual compare` and `genqual report` read a place."""
    return load(str(tmp_path / "spool"), newest=True)


@pytest.mark.parametrize("loaded", [True, False], ids=["ranks_live_on", "ranks_are_gone"])
@pytest.mark.parametrize(("error", "status"), TOLD, ids=lambda one: one if isinstance(one, str) else type(one).__name__)
def test_a_failure_is_shown_in_place_of_the_older_numbers(
    recorder: Callable[[str], Recorder], tmp_path: Path, error: BaseException, status: str, loaded: bool
) -> None:
    measure(recorder("run-1"))
    before = newest(tmp_path)
    fail(recorder("run-2"), error, loaded=loaded)
    (row,) = rows(newest(tmp_path), [])
    assert (row.run, row.status, row.tpot_ms) == ("run-2", status, None)
    (pair,) = compare(before, newest(tmp_path)).rows
    assert (pair.a, pair.b, pair.statuses) == (0.04, None, ("ok", status))
    assert pair.refused is not None
    assert pair.refused.startswith(f"B: {status}: {type(error).__name__}: ")


def test_where_the_ranks_can_say_what_they_run_the_key_is_the_very_same(
    recorder: Callable[[str], Recorder], tmp_path: Path
) -> None:
    measure(recorder("run-1"))
    fail(recorder("run-2"), OutOfMemory("x"), loaded=True)
    assert len({one.key for one in load(str(tmp_path / "spool"))}) == 1


def test_an_inspection_that_fails_after_a_failure_hides_nothing(
    recorder: Callable[[str], Recorder], tmp_path: Path
) -> None:
    def inspect() -> dict[str, Any]:
        raise OutOfMemory("again")

    with (
        pytest.raises(OutOfMemory, match="first"),
        recorder("run-1").attempt(CASE, ASKED, weights_sha256=WEIGHTS, protocol=PROTOCOL, inspect=inspect),
    ):
        raise OutOfMemory("first")
    (made,) = newest(tmp_path)
    assert (made.outcome.status, made.outcome.message) == ("oom", "OutOfMemory: first")


def test_numbers_that_come_later_take_the_place_of_the_failure(
    recorder: Callable[[str], Recorder], tmp_path: Path
) -> None:
    measure(recorder("run-1"))
    fail(recorder("run-2"), KILLED, loaded=False)
    measure(recorder("run-3"))
    (row,) = rows(newest(tmp_path), [])
    assert (row.run, row.status, row.tpot_ms) == ("run-3", "ok", 40.0)


def test_a_failure_of_another_configuration_hides_nothing(recorder: Callable[[str], Recorder], tmp_path: Path) -> None:
    measure(recorder("run-1"))
    fail(recorder("run-2"), KILLED, loaded=False, protocol={"instances": 2})
    assert sorted(row.status for row in rows(newest(tmp_path), [])) == ["error", "ok"]


def test_a_second_try_of_the_same_run_that_succeeds_has_succeeded(
    recorder: Callable[[str], Recorder], tmp_path: Path
) -> None:
    one = recorder("run-1")
    fail(one, KILLED, loaded=False)
    with one.attempt(CASE, ASKED, weights_sha256=WEIGHTS, protocol=PROTOCOL):
        measure(one)
    (row,) = rows(newest(tmp_path), [])
    assert (row.status, row.tpot_ms) == ("ok", 40.0)


def test_an_engine_that_cannot_run_a_case_any_more_takes_its_numbers_away(
    recorder: Callable[[str], Recorder], tmp_path: Path
) -> None:
    measure(recorder("run-1"))
    again = recorder("run-2")
    for _ in range(3):  # each item of the workload tells it
        path = again.unsupported(CASE, "no kernel", weights_sha256=WEIGHTS, workload=ASKED, protocol=PROTOCOL)
    (row,) = rows(newest(tmp_path), [])
    assert (row.run, row.status, row.message) == ("run-2", "unsupported", "no kernel")
    assert len(load(str(tmp_path / "spool"))) == 2
    assert path.is_file()


@pytest.fixture
def searched(recorder: Callable[[str], Recorder], monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    """A search for the largest batch, by its run and how many rows fit (0: the ranks run out of memory for good)."""
    monkeypatch.setattr(max_batch, "ran", lambda generator: INSPECTION)
    monkeypatch.setattr(max_batch, "ran_if_alive", lambda pool, generator: INSPECTION)

    def search(name: str, rows: int) -> None:
        def generate(batch: TokenBatch, new_tokens: int) -> Any:
            if batch.ids.shape[0] > rows:
                raise OutOfMemory("tried to allocate 2.00 GiB")
            return SimpleNamespace(tokens=np.zeros((batch.ids.shape[0], new_tokens), dtype=np.int64))

        live = SimpleNamespace(
            case=CASE,
            loaded=[SimpleNamespace(vocabulary=99)],
            generate=generate,
            verify_unmutated=lambda: True,
        )
        run: Any = SimpleNamespace(
            groups=SimpleNamespace(generator=lambda case: live, pool=None),
            selection=SimpleNamespace(profile=SimpleNamespace(largest_batch=64)),
            references=SimpleNamespace(weights_sha256=lambda model: WEIGHTS),
            records=SimpleNamespace(recorder=recorder(name)),
            progress=lambda text: None,
        )
        with contextlib.suppress(OutOfMemory):
            max_batch.largest_batch(run, CASE, ASKED, label="test_largest_batch")

    return search


def test_a_search_for_the_largest_batch_takes_an_older_one_s_place_whatever_it_finds(
    searched: Callable[[str, int], None], tmp_path: Path
) -> None:
    searched("run-1", 12)
    assert noted(tmp_path / "run-1.jsonl").begun == {newest(tmp_path)[0].labels["subject"]: 1}
    searched("run-2", 7)
    (cell,) = cells(newest(tmp_path), "measurement")
    assert (cell.last.run, cell.last.metrics[0].value) == ("run-2", 7.0)
    assert dict(json.loads(cell.last.labels["tried"]))[8] is False
    searched("run-3", 0)
    (cell,) = cells(newest(tmp_path), "measurement")
    assert (cell.last.run, cell.status) == ("run-3", "oom")


def judged(run: str, said: str, steps: int | None, count: int) -> Record:
    one = verdict(word=said)
    fields = one.workload.model_copy(update={"prompts": "bloom", "steps": steps, "batch": 2 if steps else None})
    told = one.judgement.model_copy(update={"judged": count}) if one.judgement else None
    return one.model_copy(update={"run": run, "created": f"2026-05-0{run[-1]}T12:00:00.000000Z", "workload": fields,
                                  "judgement": told})  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "wrong"),
    [
        (("fail", 24, 192), ("pass", 5, 192), False),  # as records of one property were made before and are now
        (("fail", 24, 192), ("pass", None, 300), False),
        (("pass", 24, 192), ("fail", 5, 1), True),
        (("fail", 24, 192), ("pass", 5, 10), True),  # less was judged: the failure stands
    ],
)
def test_a_later_verdict_on_other_steps_replaces_an_older_one(
    old: tuple[str, int, int], new: tuple[str, int | None, int], wrong: bool
) -> None:
    found = [judged("run-1", *old), judged("run-2", *new)]
    assert bool(Accuracy(found).fault(record(run="run-3"))) is wrong


def test_two_verdicts_of_one_run_both_stand() -> None:
    assert len(cells([judged("run-1", "fail", 24, 9), judged("run-1", "pass", 5, 9)], "judgement")) == 2


def ended(recorder: Recorder, error: Any = KILLED) -> None:
    """A test of the property `greedy` that ended by `error` before its verdict."""
    recorder.without_verdict(
        CASE, error, prop="greedy", weights_sha256=WEIGHTS, prompts="eight", label="test_greedy", protocol={"pad": 1}
    )


def give(recorder: Recorder, status: Any, waived: str | None = None) -> None:
    """The verdict of the same property, of ranks that could say what they run."""
    recorder.judgement(
        CASE,
        Judgement(status, "declared", "logits", "as written down", nrms=0.1, limit=0.2, judged=192),
        prop="greedy",
        weights_sha256=WEIGHTS,
        prompts="eight",
        shape=(24, 8),
        label="test_greedy",
        inspection=INSPECTION,
        protocol={"pad": 1},
        waived=waived,
    )


def verdicts(tmp_path: Path) -> list[str]:
    return sorted(one.last.judgement.verdict for one in cells(newest(tmp_path), "judgement") if one.last.judgement)


@pytest.mark.parametrize(("error", "status"), [one for one in TOLD if one[1] != "unsupported"], ids=str)
def test_a_property_whose_test_ends_without_a_verdict_takes_an_older_pass_away(
    recorder: Callable[[str], Recorder], tmp_path: Path, error: BaseException, status: str
) -> None:
    give(recorder("run-1"), "pass")
    measure(recorder("run-1"))
    ended(recorder("run-2"), error)
    assert verdicts(tmp_path) == [status]
    (row,) = rows(newest(tmp_path), [])
    assert row.accuracy == "not judged"


def test_a_verdict_that_comes_later_or_in_the_same_run_takes_the_place_of_a_test_that_ended_without_one(
    recorder: Callable[[str], Recorder], tmp_path: Path
) -> None:
    ended(recorder("run-1"))
    ended(recorder("run-2"))
    assert verdicts(tmp_path) == ["error"]
    give(recorder("run-3"), "pass")
    assert verdicts(tmp_path) == ["pass"]
    same = recorder("run-4")
    give(same, "pass")
    ended(same)
    assert verdicts(tmp_path) == ["pass"]


def test_a_failed_verdict_stands_when_its_property_was_not_judged_again(
    recorder: Callable[[str], Recorder], tmp_path: Path
) -> None:
    give(recorder("run-1"), "fail")
    measure(recorder("run-1"))
    ended(recorder("run-2"))
    assert verdicts(tmp_path) == ["error", "fail"]
    (row,) = rows(newest(tmp_path), [])
    assert row.accuracy == "wrong"


def test_a_failure_that_is_waived_takes_no_number_away_and_is_told(
    recorder: Callable[[str], Recorder], tmp_path: Path
) -> None:
    one = recorder("run-1")
    give(one, "fail", "tracker 12, until 2999-01-01")
    measure(one)
    (row,) = rows(newest(tmp_path), [])
    assert (row.status, row.accuracy, refusal(row, Asked())) == ("ok", "waived", "")
    assert row.doubts == ("known failure, WAIVED: greedy on llama-tiny (tracker 12, until 2999-01-01)",)
    (pair,) = compare(newest(tmp_path), newest(tmp_path)).rows
    assert pair.refused is None
    assert any("A: known failure, WAIVED: greedy" in note for note in pair.notes)
    give(recorder("run-2"), "fail")
    assert rows(newest(tmp_path), [])[0].accuracy == "wrong"
