"""`[performance.limits]` of a profile, as a user sees it: an item each, MEETS or MISSES, and the run's outcome."""

from __future__ import annotations

from pathlib import Path

from tests.here import CPU
from tests.plugin.suite import suite

PROFILE = """
[performance]
batch_sizes = [2]
input_lengths = [8]
new_tokens = 4
repetitions = 2
[performance.limits]
tpot_ms = 1e6
tokens_per_s = 1e9
[[performance.cases]]
engine = "transformers"
models = ["llama-tiny"]
dtypes = ["fp32"]
"""


def test_a_limit_is_an_item_that_passes_or_fails(tmp_path: Path) -> None:
    profile = tmp_path / "promises.toml"
    profile.write_text(PROFILE)
    run = suite(tmp_path, "-m", CPU, "--benchmark", f"--profile={profile}", "-k", "test_a_limit", "--no-upload")
    assert run.returncode == 1, run.stdout + run.stderr
    assert "1 failed, 1 passed" in run.stdout
    assert "genqual: limits of the profile" in run.stdout
    assert "b2-i8-n4 MEETS tpot_ms = 1e+06:" in run.stdout
    assert "b2-i8-n4: MISSES tokens_per_s = 1e+09:" in run.stdout


def test_a_profile_without_limits_has_no_such_item(tmp_path: Path) -> None:
    run = suite(tmp_path, "-m", CPU, "--benchmark", "--collect-only", "-q")
    assert "test_a_limit" not in run.stdout


def test_a_limit_that_is_none_is_a_usage_error(tmp_path: Path) -> None:
    profile = tmp_path / "promises.toml"
    profile.write_text(PROFILE.replace("tpot_ms", "tpot_msec"))
    run = suite(tmp_path, "-m", CPU, "--benchmark", f"--profile={profile}")
    assert run.returncode == 4
    assert "[performance.limits] limit 'tpot_msec': may be ttft_ms, tpot_ms" in run.stdout + run.stderr
