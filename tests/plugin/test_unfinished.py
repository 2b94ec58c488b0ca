"""A rebase that was interrupted goes on where it was, and takes over nothing that is not its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from genqual.commands import rebase_run
from genqual.errors import BadInput
from genqual.gate.baseline_builder import provenance_of
from genqual.gate.case_launches import Taken
from genqual.gate.rebase_state import Unfinished
from genqual.session.options import Options
from tests.plugin.test_judging import CASE, GATED, taken

ABOUT: dict[str, Any] = {"commit": "488b0751", "launches": 8}
KEY = (str(CASE), 1, ("w" * 64,))


@pytest.fixture
def kept(tmp_path: Path) -> Unfinished:
    return Unfinished.of(tmp_path / "rebase", ABOUT)


def test_what_is_kept_is_read_as_it_was(kept: Unfinished) -> None:
    assert kept.read() == {}
    launches = [taken(0.81), taken(0.8 + 1 / 3, probes={"steal_share": 0.25}, cold=True)]
    for one in launches:
        kept.add(KEY, one)
    other = (str(CASE), 1, ("x" * 64,))
    kept.add(other, taken(0.5))
    assert kept.read() == {KEY: launches, other: [taken(0.5)]}
    assert Unfinished.of(kept.path.parent, ABOUT).read() == kept.read()
    assert Unfinished.of(kept.path.parent, ABOUT | {"commit": "30c5d6a1"}).read() == {}
    kept.done()
    assert kept.read() == {}


def test_a_line_that_was_cut_short_is_written_over(kept: Unfinished) -> None:
    kept.add(KEY, taken(0.81))
    whole = kept.path.read_bytes()
    kept.path.write_bytes(whole + whole[:-1] + b" " * 99)  # longer than what comes
    assert kept.read() == {KEY: [taken(0.81)]}
    kept.add(KEY, taken(0.82))
    assert kept.read() == {KEY: [taken(0.81), taken(0.82)]}


@pytest.mark.parametrize(
    "line", ["{}", "nonsense", '{"case": "a", "batch": 0, "weights": [], "metrics": {"tpot": {}}}']
)
def test_other_damage_is_named(kept: Unfinished, line: str) -> None:
    kept.add(KEY, taken(0.81))
    kept.path.write_text(f"{line}\n{kept.path.read_text()}")
    with pytest.raises(BadInput, match="line 1 is not a launch; delete the file to start again"):
        kept.read()


class Launching:
    """Stands for CaseLaunches: z counts launches, and the one at `stop` is interrupted."""

    count = 0
    stop = 0
    weights = ("w" * 64,)
    forecast_s = 1.0

    def __init__(self, generator: Any, job: Any) -> None:
        self.generator, self.job = generator, job
        self.taken: list[Taken] = []

    def extend(self) -> Taken:
        Launching.count += 1
        if Launching.count == self.stop:
            raise KeyboardInterrupt
        self.taken.append(taken(float(Launching.count)))
        return self.taken[-1]


def request() -> rebase_run.Request:
    return rebase_run.Request(
        device=CASE.device,
        cases=(CASE,),
        metrics=("tpot",),
        gated=GATED,
        launches=8,
        batches=2,
        pause_s=30.0,
        tolerance_up_to=0.0,
        reason=None,
        accept=None,
        options=Options(),
        target=Path(),
        provenance=provenance_of(commit="488b0751", author="A. Person", reason="why"),
    )


def measured(monkeypatch: pytest.MonkeyPatch, kept: Unfinished, *, stop: int = 0, weights: str = "w") -> Any:
    """Two batches of four; the first launch of all warms the page cache. What pauses and drops, beside it."""
    happened: list[Any] = []
    monkeypatch.setattr(Launching, "count", 0)
    monkeypatch.setattr(Launching, "stop", stop)
    monkeypatch.setattr(Launching, "weights", (weights * 64,))
    monkeypatch.setattr(rebase_run, "CaseLaunches", Launching)
    monkeypatch.setattr(rebase_run, "plan", lambda case, logs, options: "the plan")
    loaded = [SimpleNamespace(parameters=31_000_000)]
    monkeypatch.setattr(
        rebase_run, "Generator", lambda pool, plan: SimpleNamespace(case=CASE, loaded=loaded, plan=plan)
    )
    monkeypatch.setattr("time.sleep", happened.append)
    pool: Any = SimpleNamespace(drop=happened.append)
    (lists,) = rebase_run.measure(pool, Path(), request(), kept)
    return [(one.metrics["tpot"].z, one.metrics["tpot"].batch) for one in lists.taken], happened


def test_an_interrupted_rebase_goes_on_where_it_was(
    kept: Unfinished, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        measured(monkeypatch, kept, stop=7)  # one warms, four of the first batch, one of the second
    found, happened = measured(monkeypatch, kept)
    assert found == [(2, 0), (3, 0), (4, 0), (5, 0), (6, 1), (2, 1), (3, 1), (4, 1)]
    assert happened == []  # the second batch had begun
    said = capsys.readouterr().err
    assert f"going on after 5 launches; delete {kept.path} to begin anew" in said
    assert "launch 3 of 3" in said


def test_nothing_is_held_during_a_pause(kept: Unfinished, monkeypatch: pytest.MonkeyPatch) -> None:
    found, happened = measured(monkeypatch, kept)
    assert found == [(float(index), int(index > 5)) for index in range(2, 10)]
    assert happened == ["the plan", 30.0]


def test_launches_of_other_weights_are_not_taken_over(kept: Unfinished, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        measured(monkeypatch, kept, stop=7)
    found, _ = measured(monkeypatch, kept, weights="x")
    assert [z for z, _ in found] == [float(index) for index in range(2, 10)]


@pytest.mark.parametrize("other", ["cores", "code", "profile"])
def test_launches_on_other_cores_or_of_other_code_are_not_taken_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, other: str
) -> None:
    """No id of a case says its cores, and no commit what is not committed yet."""
    monkeypatch.setattr(rebase_run, "cache_dir", lambda: tmp_path)
    monkeypatch.setattr(rebase_run, "identity_here", lambda device: {"cpu": "one"})
    here = SimpleNamespace(identity=lambda: SimpleNamespace(class_id="cpu-one", facts={}))
    monkeypatch.setattr(rebase_run, "devices", lambda: {CASE.device: here})
    asked = replace(request(), target=tmp_path)
    before = rebase_run.RebaseRun(asked)._unfinished().path
    assert rebase_run.RebaseRun(asked)._unfinished().path == before
    if other == "cores":
        asked = replace(asked, cases=(replace(CASE, cores_per_rank=CASE.cores_per_rank + 1),))
    elif other == "code":
        monkeypatch.setattr(rebase_run, "build_here", lambda packages: "edited")
    else:
        asked = replace(asked, launches=9)
    assert rebase_run.RebaseRun(asked)._unfinished().path != before


def test_when_batches_were_made_is_kept_with_their_launches(kept: Unfinished, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kept.spans(1) is None
    clock = iter([100.0, 130.0, 2000.0, 2030.0])
    monkeypatch.setattr("time.time", lambda: next(clock))
    for batch in (0, 0, 1, 1):
        kept.add((KEY[0], batch, KEY[2]), taken(0.8))
    assert kept.spans(2) == [(100.0, 130.0), (2000.0, 2030.0)]
    assert kept.spans(3) is None
    text = kept.path.read_text()
    kept.path.write_text(text.replace(', "at": 2030.0', ""))  # as an older version wrote it
    assert kept.spans(2) is None
    assert len(kept.read()) == 2


@pytest.mark.parametrize(("limit_s", "fits"), [(60.0, False), (90.0, True)])
def test_a_quick_rebase_that_would_not_be_quick_is_refused_before_it_measures(
    kept: Unfinished, monkeypatch: pytest.MonkeyPatch, limit_s: float, fits: bool
) -> None:
    """Eight launches of five seconds and a pause of thirty: 70 s."""
    asked = replace(request(), limit_s=limit_s)
    monkeypatch.setattr("tests.plugin.test_unfinished.request", lambda: asked)
    if fits:
        assert len(measured(monkeypatch, kept)[0]) == 8
        return
    with pytest.raises(BadInput, match=r"--quick: 8 launches of 1 cases take 1 minutes, and it has 1; give it fewer"):
        measured(monkeypatch, kept)
    assert kept.read() == {}
