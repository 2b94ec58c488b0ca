"""The vendor's real generate on simulated cards, through the real suite: fault-free runs pass, faults are found."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from genqual.signing.manifest import Manifest
from genqual.storage.sources import load
from tests.plugin.suite import ROOT, suite

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(
        importlib.util.find_spec("optimum") is None,
        reason="optimum-habana is not installed; `tox -e hpu-contract` has it",
    ),
]
LONG_S = 3600  # eight ranks share what CPUs there are, perhaps with others
PATIENT = "--deadline-scale=4"  # a rank that gets a hundredth of a core is not ready in two minutes, and does not hang
SHORT = ("--batch-sizes", "1", "--input-lengths", "16", "--new-tokens", "6")
WINDOW = "test_no_compilation_and_no_fallback_in_a_timed_window"


def run(
    state: Path, *args: str, ranks: int = 1, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    cards = {"GENQUAL_SIMULATED_CARDS": str(ranks), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return suite(
        state, "-m", "hpu", "--simulate", "--profile", "hpu", "--engine", "optimum-habana", "--ranks", str(ranks),
        PATIENT, *args, env={**cards, **(env or {})}, timeout=LONG_S,
    )  # fmt: skip


def failures(output: str) -> set[str]:
    return set(re.findall(r"^FAILED \S+::(test_\w+)", output, flags=re.MULTILINE))


@pytest.mark.parametrize("ranks", [1, 2, 8])
@pytest.mark.parametrize("model", ["llama-tiny", "bloom-tiny"])
def test_the_oracle_accepts_the_vendors_generate(tmp_path: Path, model: str, ranks: int) -> None:
    done = run(tmp_path, "--model", model, "--dtype", "fp32", "-k", "test_greedy or test_cache", ranks=ranks)
    assert done.returncode == 0, done.stdout + done.stderr
    records = load(f"sqlite:///{tmp_path}/results.db")
    assert records
    assert {record.provenance.kind for record in records} == {"simulated"}
    assert {record.engine.name for record in records} == {"optimum-habana"}
    (manifest,) = (tmp_path / "manifests").glob("*.json")
    assert Manifest.from_bytes(manifest.read_bytes()).claim == "simulated"


def test_intels_own_compressor_measures_and_leaves_what_it_measured(tmp_path: Path) -> None:
    """The first of fp8's three steps, with the real package; quantising wants operators that only a card has."""
    file = tmp_path / "measure.json"
    file.write_text(
        json.dumps({"mode": "MEASURE", "observer": "maxabs", "dump_stats_path": str(tmp_path / "found/measure")})
    )
    (tmp_path / "found").mkdir()
    done = run(
        tmp_path, "--model", "llama-tiny", "--dtype", "bf16", "-k", "test_logits_match", env={"QUANT_CONFIG": str(file)}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = (json.loads(one.read_text()) for one in (tmp_path / "found").glob("measure_hooks_maxabs.json"))
    assert len(found["Nodes"]) > 10
    assert all(node["inputs"] for node in found["Nodes"].values() if "inputs" in node)


def test_what_the_vendors_bloom_gets_wrong_in_bf16_is_what_the_waivers_say(tmp_path: Path) -> None:
    """Five tests, one cause (tests/hpu_contract/test_bloom_alibi.py); strict, so a mended upstream fails here."""
    wanted = "logits_match_the_oracle or drift or test_left_padding"
    done = run(
        tmp_path, "--benchmark", *SHORT, "--model", "bloom-tiny", "--dtype", "bf16", "-k", wanted,
        "--waivers", str(ROOT / "tests/simulated_hpu/waivers"),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 waived" in done.stdout, done.stdout


def test_a_warm_window_compiles_nothing(tmp_path: Path) -> None:
    done = run(tmp_path, "--benchmark", *SHORT, "--model", "llama-tiny", "--dtype", "bf16", "-k", WINDOW)
    assert "1 passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({"SIMULATED_HPU_FAULTS": "recompilation"}, r"'graph_compilation': \d"),
        ({"SIMULATED_HPU_UNSUPPORTED": "argmax"}, r"'cpu_fallback': 6"),
    ],
    ids=["recompilation", "fallback"],
)
def test_what_must_not_happen_in_a_window_is_found(tmp_path: Path, env: dict[str, str], says: str) -> None:
    done = run(tmp_path, "--benchmark", *SHORT, "--model", "bloom-tiny", "--dtype", "bf16", "-k", WINDOW, env=env)
    assert failures(done.stdout) == {WINDOW}, done.stdout + done.stderr
    assert re.search(says, done.stdout), done.stdout


def test_a_graph_that_replays_stale_inputs_is_found(tmp_path: Path) -> None:
    done = run(
        tmp_path, "--model", "llama-tiny", "--dtype", "fp32", "-k", "test_logits_match_the_oracle",
        env={"SIMULATED_HPU_FAULTS": "stale_graph_input"},
    )  # fmt: skip
    assert failures(done.stdout) == {"test_logits_match_the_oracle"}, done.stdout + done.stderr


def test_one_cards_swapped_shard_is_found(tmp_path: Path) -> None:
    done = run(
        tmp_path, "--model", "llama-tiny", "--dtype", "fp32", "-k", "test_logits_match_the_oracle",
        "-p", "tests.hpu_contract.inject", ranks=2,
    )  # fmt: skip
    assert failures(done.stdout) == {"test_logits_match_the_oracle"}, done.stdout + done.stderr
