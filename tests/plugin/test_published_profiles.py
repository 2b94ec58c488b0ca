"""The profiles of published results: their workloads as published, and a miniature that runs here."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from genqual.errors import BadInput
from genqual.paths import data_dir
from genqual.session import profiles
from genqual.session.options import Options
from tests.here import CPU
from tests.plugin.suite import suite

PUBLISHED = ("bloom-176b", "bloomz-7b", "bloomz-7b-synapse-1.10", "llama2-intel")


def cells(file: str) -> list[dict[str, object]]:
    """The cited cells of a published table, each with what its group and the file say."""
    data = tomllib.loads((data_dir("baselines") / "published" / f"{file}.toml").read_text())
    return [{**data.get("common", {}), **group, **cell} for group in data["group"] for cell in group["cells"]]


def asked(name: str) -> tuple[set[int], set[int], set[int]]:
    """Batches, input lengths and new tokens of a profile."""
    found = profiles.load(name).workloads(Options())
    return {w.batch for w in found}, {w.input_length for w in found}, {w.new_tokens for w in found}


def test_bloom_has_every_batch_of_the_table_and_both_device_counts() -> None:
    batches, lengths, new = asked("bloom-176b")
    table = {
        int(str(cell["batch"])) for cell in cells("bloom-176b") if cell.get("metric") == "msec" and "batch" in cell
    }
    assert table <= batches == {1, 8, 16, 32, 64, 128, 256, 512}
    assert (lengths, new) == ({7}, {100})
    ranks = {n for row in profiles.load("bloom-176b").performance for n in row.ranks}
    assert {8, 4} <= ranks


@pytest.mark.parametrize("name", ["bloomz-7b", "bloomz-7b-synapse-1.10"])
def test_bloomz_has_one_prompt_on_one_and_on_eight_devices(name: str) -> None:
    assert asked(name) == ({1}, {7}, {100})
    assert {n for row in profiles.load(name).performance for n in row.ranks} == {1, 8}


def test_the_two_generations_of_bloomz_are_two_protocols() -> None:
    first, second = (profiles.load(name).protocol for name in ("bloomz-7b", "bloomz-7b-synapse-1.10"))
    assert first != second
    generations = {str(cell["protocol"]["generation"]) for cell in cells("bloomz") if "protocol" in cell}  # type: ignore[index]
    assert first["workload_of"].removeprefix("BLOOMZ, ") in generations


def test_llama_2_has_the_lengths_of_the_article() -> None:
    batches, lengths, new = asked("llama2-intel")
    assert (batches, new) == ({1}, {256})
    assert {32, 128, 2048} <= lengths
    assert max(lengths) == 2048


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_miniature_keeps_engines_batches_and_lengths(name: str) -> None:
    whole = profiles.load(name)
    small = whole.miniature()
    assert small.workloads(Options()) == whole.workloads(Options())
    for a, b in zip(whole.performance + whole.conformance, small.performance + small.conformance, strict=True):
        assert (a.engine, a.dtypes) == (b.engine, b.dtypes)
        assert all(model.endswith("-tiny") for model in b.models)
        assert max(b.ranks) <= 2
    assert whole.protocol != small.protocol == {"miniature_of": name}


def test_a_profile_of_small_models_has_no_miniature() -> None:
    with pytest.raises(BadInput, match=r"embedded has no \[miniature\] table"):
        profiles.load("embedded").miniature()


def test_a_model_without_a_stand_in_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[[performance.cases]]\nengine = 'transformers'\nmodels = ['a/b']\n[miniature]\nmodels = {}\n")
    with pytest.raises(BadInput, match="has no entry for a/b"):
        profiles.load(str(path))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[host]\ncores_per_rank = '2'\n", r"\[host\] cores_per_rank = '2': must be a valid integer"),
        ("[host]\ncores_per_rank = -1\n", r"\[host\] cores_per_rank = -1: must be greater than or equal to 0"),
        ("[performance]\nnew_tokens = true\n", r"\[performance\] new_tokens = True: must be a valid integer"),
        ("[performance]\nbatch_sizes = 4\n", r"\[performance\] batch_sizes = 4: must be an array"),
        ("[performance]\nbatch_sizes = []\n", r"\[performance\] batch_sizes = \[\]: must have an element"),
        ("[performance]\ngate_budget = 0\n", r"\[performance\] gate_budget = 0: must be greater than or equal to 1"),
        ("performance = 3\n", r"performance = 3: must be a table"),
        ("[perfomance]\n", r"unknown key 'perfomance', did you mean performance\? \(known are description, host"),
        (
            "[[conformance.cases]]\nengine = 'transformers'\nmodels = 'llama-tiny'\n",
            r"\[conformance.cases 1\] models = 'llama-tiny': must be an array",
        ),
        (
            "[[conformance.cases]]\nengine = 'transformers'\nmodels = ['a']\ndtypes = ['fp7']\n",
            r"\[conformance.cases 1\] dtypes, element 1 = 'fp7': genqual knows fp32, bf16, fp16, .*native",
        ),
        (
            "[[performance.cases]]\nengine = 'tranformers'\nmodels = ['a']\n",
            r"\[performance.cases 1\] .*tranformers",
        ),
        (
            "[host]\na = 1\nb = 1\nc = 1\n[performance]\nd = 1\ne = 1\nf = 1\ng = 1\n",
            r"\[host\] unknown key 'a'.*\[performance\] unknown key 'e'[^;]*; and 2 more$",
        ),
    ],
)
def test_what_is_wrong_in_a_profile_is_told_in_one_paragraph(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "my profile.toml"
    path.write_text(text)
    with pytest.raises(BadInput, match=f"--profile .*my profile.toml: {said}") as caught:
        profiles.load(str(path))
    assert "\n" not in str(caught.value)


def test_a_profile_may_state_its_protocol_in_numbers(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[performance]\nprotocol = { year = 2022, by = 'us' }\n")
    assert profiles.load(str(path)).protocol == {"year": "2022", "by": "us"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_whole_and_the_miniature_can_be_collected(name: str, tmp_path: Path) -> None:
    run = suite(tmp_path, "-m", CPU, "--benchmark", f"--profile={name}", "--miniature", "--collect-only", "-q")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "-tiny-" in run.stdout


@pytest.mark.heavy
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_miniature_runs(name: str, tmp_path: Path) -> None:
    run = suite(
        tmp_path, "-m", CPU, "--benchmark", f"--profile={name}", "--miniature", "--no-upload", "-k",
        "test_output_tokens_per_second or test_timed_text", "--deadline-scale", "4", timeout=1500,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    bodies = [json.loads(path.read_text()) for path in (tmp_path / "spool").glob("*.json")]
    measured = [b for b in bodies if b["kind"] == "measurement" and b["outcome"]["status"] == "ok"]
    wanted = profiles.load(name).workloads(Options())
    assert {b["workload"]["batch"] for b in measured} == {w.batch for w in wanted}
    assert {b["workload"]["input_length"] for b in measured} == {w.input_length for w in wanted}
    assert {b["protocol"]["miniature_of"] for b in measured} == {name}
