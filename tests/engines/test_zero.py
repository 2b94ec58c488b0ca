"""DeepSpeed ZeRO-3: the same tokens from one stream and from two, whatever waits where, and streams of their own."""

from __future__ import annotations

from typing import Any

import pytest

from tests import services

from .checks import callback_runs_between_steps, decoding_is_right, fault_shows
from .conftest import FORCED, faults_of, steps
from .harness import LEVEL, ROWS, Answers, run

RUNS = (("", "llama-tiny"), ("", "bloom-tiny"), (":offload=cpu", "llama-tiny"))
each_run = pytest.mark.parametrize(("options", "model"), RUNS)
OWN = [[[3, 141, 59, 26], [11, 7]], [[535, 89, 79, 32, 384, 626, 43]]]  # prompts of each stream: other counts, lengths
OWN_NEW = [4, 9]


def plan(options: str, model: str, ranks: int) -> dict[str, Any]:
    return {
        "engine": f"deepspeed-zero{options}",
        "model": model,
        "steps": steps(None, model, ranks, f"{options}.{model}"),
    }


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[Answers]:
    """Two streams: every run in one launch, and once streams with prompts and lengths of their own."""
    plans = [plan(options, model, 2) for options, model in RUNS]
    forced = {"rows": ROWS, "forced": FORCED}
    plans[0]["steps"] += [
        *(["faulty", f".llama-tiny.{n}", {"name": n} | forced] for n in faults_of("deepspeed-zero", "llama-tiny", 2)),
        ["between", "between", {"rows": LEVEL, "new": 5}],
        ["streams", "own", {"prompts": OWN, "new_tokens": OWN_NEW}],
        ["refused", "typo", {"offload": "nvm"}],
    ]
    return run(tmp_path_factory.mktemp("zero"), *plans, ranks=2)


@each_run
def test_tokens_are_those_of_plain_transformers(two: list[Answers], eager: Answers, options: str, model: str) -> None:
    for batch in ("padded", "level"):
        for rank in two:
            assert rank[f"{options}.{model}.{batch}.tokens"].tolist() == eager[f"{model}.{batch}.tokens"].tolist()


@each_run
def test_decoding_and_one_pass_agree_with_an_exact_pass(two: list[Answers], options: str, model: str) -> None:
    decoding_is_right(two[0], f"{options}.{model}")


@each_run
def test_each_rank_holds_its_share_of_every_weight(
    two: list[Answers], eager: Answers, options: str, model: str
) -> None:
    whole = eager[f"{model}.facts.weight_bytes"]
    parts = [rank[f"{options}.{model}.facts.weight_bytes"] for rank in two]
    assert all(whole / 2 <= part < whole / 2 * 1.01 for part in parts)  # padded to the same size
    assert two[0][f"{options}.{model}.facts.weight_hash"] == two[1][f"{options}.{model}.facts.weight_hash"]


@pytest.mark.parametrize(("options", "where"), [("", ["cpu"]), (":offload=cpu", ["cpu"])])
def test_inspect_says_what_runs(two: list[Answers], options: str, where: list[str]) -> None:
    found = two[0][f"{options}.llama-tiny.facts.inspect"]
    assert (found["zero_stage"], found["streams"], found["synced_gpus"]) == (3, 2, True)
    assert found["offload"] == (options.partition("=")[2] or "none")
    assert found["partition_devices"] == where
    assert found["partitioned_tensors"] == 30


@pytest.mark.parametrize("name", faults_of("deepspeed-zero", "llama-tiny", 2))
def test_every_fault_shows_and_is_taken_back(two: list[Answers], name: str) -> None:
    fault_shows(two[0], ".llama-tiny", name)


def test_a_callback_runs_between_steps_and_changes_no_token(two: list[Answers]) -> None:
    for rank in two:
        callback_runs_between_steps(rank, "between")


def test_streams_have_prompts_and_lengths_of_their_own(two: list[Answers], eager: Answers) -> None:
    whole = eager["llama-tiny.padded.tokens"]  # ROWS: the first two are longer than what they are padded to here
    assert [len(rank["own.tokens"]) for rank in two] == [2, 1]
    assert two[0]["own.tokens"][0] == whole[0][:4].tolist()
    assert two[0]["own.tokens"][1] == whole[2][:4].tolist()
    assert two[1]["own.tokens"][0] == whole[1][:9].tolist()
    for rank, new in zip(two, OWN_NEW, strict=True):
        rows = len(rank["own.tokens"])
        assert rank["own.tokens_per_s"] >= rows * new / rank["own.wall_s"]


def test_an_offload_that_is_none_lists_them(two: list[Answers]) -> None:
    assert two[0]["typo"].startswith("BadInput: offload 'nvm': ZeRO is run with none, cpu, nvme")


def test_one_stream_alone_is_the_same(tmp_path_factory: pytest.TempPathFactory, eager: Answers) -> None:
    (answers,) = run(tmp_path_factory.mktemp("alone"), plan("", "llama-tiny", 1))
    for batch in ("padded", "level"):
        assert answers[f".llama-tiny.{batch}.tokens"].tolist() == eager[f"llama-tiny.{batch}.tokens"].tolist()
    assert answers[".llama-tiny.facts.weight_bytes"] == eager["llama-tiny.facts.weight_bytes"]


@pytest.mark.heavy
@pytest.mark.parametrize("ranks", [1, 2])
def test_weights_on_nvme_come_back(tmp_path_factory: pytest.TempPathFactory, ranks: int) -> None:
    services.libaio()  # async_io is compiled
    folder = tmp_path_factory.mktemp("nvme")
    (folder / "disk").mkdir()
    options = f":offload=nvme+nvme_path={folder / 'disk'}"
    asked = plan(options, "llama-30m", ranks)
    asked["steps"].append(["refused", "nowhere", {"offload": "nvme", "nvme_path": str(folder / "nowhere")}])
    asked["steps"].append(["refused", "small", {"model": "llama-tiny", "offload": "nvme"}])
    plain = {"engine": "transformers", "model": "llama-30m", "steps": steps(None, "llama-30m", key="plain")}
    answers = run(folder, asked, ranks=ranks, GENQUAL_LOGS=str(folder))
    (eager,) = run(folder, plain)
    key = f"{options}.llama-30m"
    for rank in answers:
        decoding_is_right(rank, key)
        for batch in ("padded", "level"):
            assert rank[f"{key}.{batch}.tokens"].tolist() == eager[f"plain.{batch}.tokens"].tolist()
        found = rank[f"{key}.facts.inspect"]
        # Embeddings, head and the three matrices of nine MLPs; attention's too where one rank holds them whole.
        assert found["partitions_on_nvme"] == 2 + 9 * (3 if ranks == 2 else 5)
        assert found["dtypes"] == ["float32"]
        assert rank["nowhere"].startswith("BadInput: weights offloaded to NVMe shall go to")
        assert rank["small"].startswith("Unsupported: offload=nvme: DeepSpeed writes a weight to NVMe only where")
    held = {name: sum(rank[f"{key}.facts.{name}"] for rank in answers) for name in ("parameters", "weight_bytes")}
    assert all(whole >= eager[f"plain.facts.{name}"] for name, whole in held.items()), held
    written = sum(file.stat().st_size for file in (folder / "disk").rglob("*") if file.is_file())
    assert 0.75 * eager["plain.facts.weight_bytes"] < written
