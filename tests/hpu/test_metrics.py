"""Files as Habana's bridge writes them to PT_HPU_METRICS_FILE."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from genqual.cli import genqual
from genqual.devices.hpu_metrics import counted, read
from genqual.errors import BadInput


def entry(metric: str, total: int, at: str, trigger: str = "metric_change") -> dict[str, object]:
    return {
        "metric_name": metric,
        "triggered_by": trigger,
        "generated_on": f"2026-11-22T{at}",
        "statistics": {"TotalNumber": total, "TotalTime": 7 * total},
    }


def written(path: Path, *more: dict[str, object]) -> Path:
    warm_up = [
        entry("graph_compilation", 1, "05:00:01"),
        entry("graph_compilation", 2, "05:00:02"),
        {**entry("recipe_cache", 0, "05:00:02"), "statistics": {"TotalHit": 3, "TotalMiss": 2}},
    ]
    path.write_text(json.dumps([*warm_up, *more]))
    return path


def judged(*words: str) -> Result:
    return CliRunner().invoke(genqual, ["hpu-metrics", *words])


END = [
    entry("graph_compilation", 2, "05:09:00", "process_exit"),
    entry("cpu_fallback", 0, "05:09:00", "process_exit"),
    entry("memory_defragmentation", 0, "05:09:00", "process_exit"),
]


def test_a_window_after_the_warm_up_that_compiles_nothing_passes(tmp_path: Path) -> None:
    file = written(tmp_path / "metrics-rank0.json", *END)
    assert counted(read(file)) == {"graph_compilation": 2, "cpu_fallback": 0, "memory_defragmentation": 0}
    found = judged(str(file), "--after", "2026-11-22T05:00:03")
    assert found.exit_code == 0, found.output
    assert "0 x graph_compilation, 0 x cpu_fallback" in found.output


@pytest.mark.parametrize("metric", ["graph_compilation", "cpu_fallback", "memory_defragmentation"])
def test_what_happens_in_the_window_fails_on_any_rank(tmp_path: Path, metric: str) -> None:
    late = entry(metric, 5, "05:04:00")
    files = written(tmp_path / "m-rank0.json", *END), written(tmp_path / "m-rank1.json", late, *END)
    found = judged(*map(str, files), "--after", "2026-11-22T05:00:03")
    assert found.exit_code == 1
    assert f"m-rank1.json: {3 if metric == 'graph_compilation' else 5} x {metric} in the window" in found.output


def test_of_a_whole_process_only_fallbacks_fail(tmp_path: Path) -> None:
    assert judged(str(written(tmp_path / "a.json", *END))).exit_code == 0
    found = judged(str(written(tmp_path / "b.json", *END, entry("cpu_fallback", 1, "05:09:00", "process_exit"))))
    assert (found.exit_code, "1 x cpu_fallback in the process" in found.output) == (1, True)


@pytest.mark.parametrize("content", ["", "{}", "[1]", '[{"metric_name": "cpu_fallback"}]', "[]"])
def test_another_file_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(BadInput, match=r"x\.json: "):
        read(tmp_path / "x.json")


def test_a_file_of_the_end_alone_knows_no_window(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps(END))
    found = judged(str(tmp_path / "x.json"), "--after", "2026-11-22T05:00:03")
    assert isinstance(found.exception, BadInput)
    assert "metric_change" in str(found.exception)


def test_a_missing_file_and_a_moment_that_is_none_are_told(tmp_path: Path) -> None:
    assert "-rankN" in str(judged(str(tmp_path / "no.json")).exception)
    assert "--after noon" in str(judged(str(written(tmp_path / "x.json")), "--after", "noon").exception)
