"""A baseline is refused where it would make a bad gate, and what is written can be read, by the gate and in a diff."""

from __future__ import annotations

import json
import math
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genqual.cli import main
from genqual.commands import rebase
from genqual.commands.rebase_run import replacing
from genqual.errors import BadInput
from genqual.gate import baseline_file
from genqual.gate.baseline_builder import (
    entry_of,
    merged,
    problem,
    provenance_of,
    readable,
    slower,
    tolerance_of,
    unfit,
    write,
)
from genqual.gate.baseline_file import Anchor, Launch
from genqual.gate.batch_variance import apart
from genqual.gate.case_launches import subject_of
from genqual.gate.decision import Settings
from genqual.gate.drift import Drift, prior
from genqual.gate.launch_plan import LaunchJob, frozen_shape
from genqual.gate.other_build import build_of
from genqual.gate.tolerances import Known
from tests.plugin.test_judging import CASE, GATED, OLD, entry, launch, taken

SETTINGS = Settings(0.05)


def series(*, sigma: float = 0.005, count: int = 16, last: float = 0.0, batches: int = 2) -> list[Launch]:
    rng = np.random.default_rng(4)
    values = 0.8 + sigma * rng.standard_normal(count)
    values[-4:] += last
    return [launch(float(z)).model_copy(update={"batch": index * batches // count}) for index, z in enumerate(values)]


def hours(differ: float, count: int = 20, batches: int = 5) -> list[Launch]:
    """Batches whose mean z have exactly the sample deviation `differ`; launches of a batch hardly vary."""
    levels = np.linspace(-1, 1, batches)
    levels *= differ / levels.std(ddof=1)
    return [
        one.model_copy(update={"z": one.z + float(levels[one.batch])})
        for one in series(sigma=0.0005, count=count, batches=batches)
    ]


ALIKE = Drift(0.0, 10.0)
"""A class whose occasions are all alike."""


def known(launches: list[Launch], drift: Drift = ALIKE) -> Known:
    return Known(drift, tuple(one.batch for one in launches))


@pytest.mark.parametrize(
    ("launches", "said"),
    [
        (series(), ""),
        (series(sigma=0.02), "launches vary by"),
        (series(batches=1), "two batches at least"),
        (series(count=7), "7 launches were accepted; 8 are needed"),
        (series(last=0.027, sigma=0.001, count=32), "held out, are judged"),
        (hours(0.0), ""),
        (hours(0.004), ""),
        (hours(0.008), "occasions by"),
    ],
)
def test_launches_that_make_a_bad_baseline_are_refused(launches: list[Launch], said: str) -> None:
    """Of a class that is known not to drift; where batches themselves differ, the class drifts as they do."""
    seen = Known.measured(launches, 0.0) if "occasions" in said else known(launches)
    found = problem(launches, SETTINGS, exact=False, known=seen)
    assert bool(found) == bool(said), found
    assert said in found


@pytest.mark.parametrize(
    ("launches", "widest", "allowed"),
    [
        (series(), 0.0, 0.05),
        (series(), 0.5, 0.05),  # what varies little enough keeps the metric's own
        (hours(0.008), 0.5, 0.07),
        (hours(0.008), 0.07, 0.07),
        (hours(0.008), 0.06, 0.05),  # too little: refused, not squeezed in
        (hours(0.012), 0.5, 0.10),
    ],
)
def test_an_uneven_host_may_have_the_least_tolerance_that_it_needs(
    launches: list[Launch], widest: float, allowed: float
) -> None:
    """The drift of the class is known, by so many occasions that the prior is forgotten: none, 0.7 % or 1 %."""
    differ = 0.0 if launches == series() else 0.007 if allowed < 0.1 else 0.010
    seen = known(launches, Drift(differ, 1000.0))
    found = tolerance_of(launches, 0.05, widest, seen)
    assert found == allowed
    refused = problem(launches, Settings(found), exact=False, known=seen)
    assert bool(refused) is (allowed == 0.05 and launches != series())
    if refused:
        assert "--tolerance-up-to 7" in refused


def test_the_noise_of_launches_counts_for_the_tolerance_too() -> None:
    noisy = series(sigma=0.02, count=40)
    parts = [[one.z for one in noisy if one.batch == batch] for batch in (0, 1)]
    within = math.sqrt(sum(np.var(part) * len(part) for part in parts) / 38)
    free = tolerance_of(noisy, 0.05, 0.5, known(noisy))
    assert free == pytest.approx(math.ceil(100 * within / 0.22) / 100, abs=0.0101)
    assert tolerance_of(noisy, 0.05, 0.5) > free  # where nothing is known of drift, the prior is counted


def test_a_baseline_of_one_occasion_holds_less_than_one_of_five() -> None:
    """`--quick` beside `--batches 5 --pause 1800`: the same launches, and what is known of their times."""
    made = series(sigma=0.006, count=20, batches=5)
    prior_sd = prior(0.05, stepped=True)
    quick, apart_ = (Known.measured(made, prior_sd, when) for when in ([0] * 5, [0, 1, 2, 3, 4]))
    wide, narrow = (tolerance_of(made, 0.05, 0.5, one) for one in (quick, apart_))
    assert 0.05 < narrow < wide <= 0.15
    others = [[[0.8, 0.801], [0.8, 0.799], [0.801, 0.8], [0.8, 0.8]]] * 3  # earlier builds, on quiet occasions
    told = Known.measured(made, prior_sd, [0] * 5, others)
    assert told.drift.sd < quick.drift.sd
    assert tolerance_of(made, 0.05, 0.5, told) < wide


def test_a_wider_tolerance_than_the_old_one_must_be_accepted() -> None:
    same = shifted(0.0)
    wide = Settings(0.08)
    (said,) = replacing("here", entry(), same, wide, "tpot", "a noisier year", None)
    assert "its tolerance becomes 8% instead of 5%" in said
    assert "--accept-regression" in said
    assert not replacing("here", entry(), same, wide, "tpot", None, "a noisier year")
    assert not replacing("here", entry(tolerance=0.08), same, Settings(0.05), "tpot", "a quieter year", None)


def test_what_batches_differ_by_is_without_what_launches_vary_by() -> None:
    """Unbiased for the variance: 2,000 made-up baselines, batches of unequal sizes."""
    rng = np.random.default_rng(5)
    batch = np.repeat(np.arange(5), (4, 4, 3, 5, 4))
    for between, within in ((0.005, 0.006), (0.0, 0.006)):
        squares = []
        for _ in range(2000):
            values = rng.normal(0, between, 5)[batch] + rng.normal(0, within, batch.size)
            made = [launch(float(z)).model_copy(update={"batch": int(b)}) for z, b in zip(values, batch, strict=True)]
            squares.append(apart(made) ** 2)
        truth = between**2
        assert truth * 0.9 < np.mean(squares) < truth * 1.1 + 0.2 * within**2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ""),
        ({"probes": {"cpu_share": 0.6}}, "its ranks had 60% of their cores"),
        ({"probes": {"suspended_s": 9.0}}, "suspended"),
        ({"failed": "launch 3 died"}, "launch 3 died"),
    ],
)
def test_a_disturbed_launch_is_no_part_of_a_baseline(changes: dict[str, Any], said: str) -> None:
    found = unfit(taken(0.8, **changes), "tpot", CASE)
    assert bool(found) == bool(said)
    assert said in "; ".join(found)


def test_ranks_that_wait_for_each_other_need_no_whole_core() -> None:
    assert not unfit(taken(0.8, probes={"cpu_share": 0.6}), "tpot", replace(CASE, ranks=2))


def shifted(share: float, count: int = 12) -> list[Launch]:
    return [launch(z + math.log1p(share)) for z in (OLD * 2)[:count]]


def test_slower_than_the_last_baseline_is_told() -> None:
    assert slower(entry(), shifted(0.0), SETTINGS, exact=False) == ""
    assert "+6.0% (" in slower(entry(), shifted(0.06), SETTINGS, exact=False)
    assert "against the baseline of 20" in slower(entry(), shifted(0.06), SETTINGS, exact=False)


def test_small_slips_add_up_against_the_anchor() -> None:
    """2.4 % and 2.3 % are within half the tolerance each, and not together."""
    slipped = tuple(shifted(0.024))
    kept = entry(launches=slipped)
    assert kept.anchor.launches != slipped
    assert slower(kept, shifted(0.024), SETTINGS, exact=False) == ""
    assert "against the anchor" in slower(kept, shifted(0.047), SETTINGS, exact=False)
    moved = entry(launches=slipped, anchor=Anchor(launches=slipped, provenance=kept.provenance))
    assert slower(moved, shifted(0.047), SETTINGS, exact=False) == ""


def test_what_is_written_is_read_back_and_a_launch_is_a_line(tmp_path: Path) -> None:
    path = tmp_path / "a-class.json"
    made = entry()
    write(path, merged(None, "a-class", {"cores": 2}, {made.subject.key: made}))
    found = baseline_file.find(tmp_path, "a-class")
    assert found is not None
    assert found.entry(made.subject.key) == made
    text = path.read_text()
    assert sum('"autocorrelation_steps"' in line for line in text.splitlines()) == 2 * len(made.launches)
    other = entry("ttft")
    write(path, merged(found, "a-class", {}, {other.subject.key: other}))
    again = baseline_file.find(tmp_path, "a-class")
    assert again is not None
    assert set(again.entries) == {made.subject.key, other.subject.key}


def test_what_is_kept_of_a_launch_has_digits_that_a_person_can_read() -> None:
    job = LaunchJob.of(["tpot"], GATED, frozen_shape(31_000_000, "bf16"), slowdown=0.05, ranks=1)
    every = [launch(0.8, fast=(1 / 30, 1 / 70)).model_copy(update={"z": 0.8 + 1 / 3e5, "p50": 0.0100000001})] * 8
    made = entry_of(
        subject_of(CASE, ["w" * 64], GATED["tpot"], "tpot"), every, [taken(0.8)] * 8, job,
        tolerance=0.05, identity={}, provenance=provenance_of(commit="488b0751", author="A", reason="first"), old=None,
    )  # fmt: skip
    one = made.launches[0]
    assert (one.z, one.p50, one.floor, one.frozen_floor) == (0.800003, 0.01, -4.533333, -5.314286)


def test_what_cannot_be_read_back_replaces_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a-class.json"
    path.write_text("the old one")
    with pytest.raises(BadInput, match="not the JSON of a baseline"):
        write(path, '{"version": 1,')
    assert path.read_text() == "the old one"
    assert list(tmp_path.iterdir()) == [path]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(json_values)
def test_layout_changes_nothing(value: Any) -> None:
    assert json.loads(readable(value)) == value


@pytest.mark.parametrize(("field", "value"), [("commit", "HEAD"), ("author", ""), ("reason", "")])
def test_a_baseline_says_who_and_why(field: str, value: str) -> None:
    with pytest.raises(BadInput, match=f"--{field} {value}"):
        provenance_of(**({"commit": "488b0751", "author": "A. Person", "reason": "why"} | {field: value}))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--device", "hpu"], "--device hpu: "),
        (["--model", "lama-30m"], "lama-30m"),
        (["--batch-sizes", "one"], "--batch-sizes one: give whole numbers"),
        (["--launches", "3"], "--launches"),
        (["--metric", "e2e"], "--metric"),
        (["--commit", "HEAD", "--author", "A. Person"], "--commit HEAD"),
    ],
)
def test_what_cannot_be_rebased_starts_nothing(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        main(["rebase", f"--out={tmp_path / 'out'}", *arguments])
    assert ended.value.code == 4
    assert said in capsys.readouterr().err
    assert not list(tmp_path.glob("out/*"))


def test_a_tree_that_is_not_committed_is_told_before_hours_are_spent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def git(*words: str) -> None:
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=tmp_path, check=True)

    for name in ("plugins/a.py", "docs/a.md"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("1\n")
    git("init", "-q", ".")
    git("add", ".")
    git("commit", "-qm", "first")
    monkeypatch.chdir(tmp_path / "docs")
    (tmp_path / "docs/a.md").write_text("2\n")
    clean = rebase._head()
    assert capsys.readouterr().err == ""
    (tmp_path / "plugins/a.py").write_text("2\n")
    assert rebase._head() == clean
    said = capsys.readouterr().err
    assert "plugins/a.py and perhaps more is not committed" in said
    assert clean[:12] in said


def test_a_commit_is_unpacked_and_not_checked_out(tmp_path: Path) -> None:
    found = build_of("HEAD", tmp_path)
    (place,) = found.path
    assert (Path(place) / "genqual" / "ranks" / "worker.py").is_file()
    assert build_of("HEAD", tmp_path) == found


def test_an_environment_lends_its_python_and_runs_this_genqual(tmp_path: Path) -> None:
    python = tmp_path / "env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\n")
    python.chmod(0o755)
    found = build_of(str(tmp_path / "env"), tmp_path / "made")
    assert found.python == str(python)
    assert sorted(path.name for path in Path(found.path[0]).iterdir()) == ["genqual"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("no-such-commit", "no file, no directory, and"),
        ("--help", "no file, no directory, and"),
        (".", "must be a virtual environment"),
        ("missing.whl", "no such file"),
    ],
)
def test_a_build_that_is_none_is_named(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="--baseline-from") as caught:
        build_of(text, tmp_path)
    assert said in str(caught.value)
