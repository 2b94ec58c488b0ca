"""Records from files that optimum-habana's own scripts and tests wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from genqual.analysis.compare import compare
from genqual.analysis.published.optimum_habana import baselines, results_json
from genqual.commands import hpu
from genqual.errors import BadInput
from genqual.storage.sources import load

RESULTS = {
    "throughput": 100.0,
    "avg_first_token_latency": 0.05,
    "avg_rest_token_latency": 0.001,
    "avg_e2e_latency": 1.0,
    "input": [["a"]],
    "output": [["b"]],
}
T = "tests/test_text_generation_example.py::test_text_generation_"


def written(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def test_a_results_file_is_cited_and_its_rest_latency_is_called_dispatch(tmp_path: Path) -> None:
    file = written(tmp_path / "results.json", RESULTS)
    record = results_json(
        file, card="gaudi2", model="bigscience/bloom", dtype="bf16", ranks=8, batch=1, new_tokens=100, input_length=None
    )
    assert {metric.name: (metric.value, metric.unit) for metric in record.metrics} == {
        "tokens_per_s": (100.0, "tokens/s"),
        "first_token": (0.05, "s"),
        "rest_dispatch": (0.001, "s"),
        "end_to_end": (1.0, "s"),
    }
    assert not {metric.name for metric in record.metrics} & {"tpot", "ttft", "itl"}
    assert (record.provenance.kind, record.engine.parallelism) == ("cited", {"tensor": 8})
    assert "results.json of run_generation.py, sha256" in str(record.provenance.source)


@pytest.mark.parametrize("broken", [{**RESULTS, "throughput": 0}, {**RESULTS, "avg_e2e_latency": "1"}, {}, []])
def test_what_is_no_results_file_is_refused(tmp_path: Path, broken: object) -> None:
    file = written(tmp_path / "results.json", broken)
    with pytest.raises(BadInput, match=r"results\.json: "):
        results_json(file, card="gaudi2", model="m", dtype="bf16", ranks=1, batch=1, new_tokens=1, input_length=None)


@pytest.mark.parametrize(
    ("test", "what"),
    [
        ("bf16_1x[microsoft/phi-2-1-False-False-False]", ("microsoft/phi-2", "bf16", 1, 1, 100, None)),
        ("bf16_1x[meta-llama/Llama-2-7b-hf-512-True-False]", ("meta-llama/Llama-2-7b-hf", "bf16", 1, 512, 100, None)),
        ("deepspeed[Qwen/Qwen2.5-72B-2-1]", ("Qwen/Qwen2.5-72B", "bf16", 2, 1, 100, None)),
        (
            "fp8[meta-llama/Llama-2-70b-hf-4-3042-False-128-2048-True]",
            ("meta-llama/Llama-2-70b-hf", "fp8", 4, 3042, 2048, 128),
        ),
        ("torch_compile_distributed[meta-llama/Llama-2-7b-hf]", ("meta-llama/Llama-2-7b-hf", "bf16", 8, 1, 100, None)),
    ],
)
def test_a_baseline_is_read_out_of_its_tests_id(tmp_path: Path, test: str, what: tuple[object, ...]) -> None:
    found = baselines(written(tmp_path / "a.json", {T + test: {"gaudi2": {"throughput": 12.5, "output": "x"}}}))
    (record,) = found.records
    asked = record.workload
    assert what == (
        *(record.model.name, record.precision.dtype, record.engine.ranks),
        *(asked.batch, asked.new_tokens, asked.input_length),
    )
    assert (record.metrics[0].value, record.system.class_id) == (12.5, "gaudi2-by-optimum-habana")


def test_what_cannot_be_read_is_named_with_a_reason(tmp_path: Path) -> None:
    written(
        tmp_path / "deep" / "a.json",
        {
            T + "bf16_1x[a/b-1-False-False]": {"gaudi2": {"throughput": 0}, "gaudi9": {"throughput": 1}},
            T + "beam_search[a/b-1-True]": {"gaudi2": {"throughput": 1}},
            "tests/test_diffusers.py::test_x": {"gaudi2": {"throughput": 1}},
        },
    )
    found = baselines(tmp_path)
    assert found.records == []
    assert [why.partition(":")[0].partition(",")[0] for _, why in found.left_out] == [
        "no throughput",
        "no throughput",
        "its parameters are not greedy generation as bf16_1x",
        "no test of text generation",
    ]


def test_imported_records_stand_in_a_comparison_as_cited(tmp_path: Path) -> None:
    test = T + "bf16_1x[a/b-1-False-False]"
    file = written(tmp_path / "a.json", {test: {"gaudi2": {"throughput": 10.0}, "gaudi3": {"throughput": 20.0}}})
    url = f"sqlite:///{tmp_path / 'r.db'}"
    for new in (2, 0):  # a second import changes nothing
        done = CliRunner().invoke(hpu.hpu_import, ["baselines", str(file), "--to", url])
        assert done.exit_code == 0, done.output
        assert f"2 cited records, {new} new there" in done.output
    stored = load(url)
    sides = [[r for r in stored if r.system.class_id.startswith(card)] for card in ("gaudi2-", "gaudi3-")]
    found = compare(sides[0], sides[1])
    (row,) = found.rows
    assert (row.a, row.b) == (10.0, 20.0)
