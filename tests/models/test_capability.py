"""The same bits and the same tokens under AVX-512, AVX2 and scalar code."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import NEW_TOKENS, TINY, Peer, ask, rows

FLAGS = {"default": "", "avx2": "avx2", "avx512": "avx512f"}


@pytest.mark.heavy
@pytest.mark.parametrize("capability", FLAGS)
def test_hashes_and_greedy_tokens_do_not_depend_on_the_instruction_set(
    peer: Peer, tmp_path: Path, capability: str
) -> None:
    cpuinfo = Path("/proc/cpuinfo")
    if (
        FLAGS[capability] not in (cpuinfo.read_text().split() if cpuinfo.exists() else ["", "avx2"])
        and FLAGS[capability]
    ):
        pytest.skip(f"this processor has no {FLAGS[capability]}")
    questions = {
        model: {
            "kind": "model",
            "model": model,
            "dtypes": ["fp32", "bf16"],
            "rows": rows(model),
            "new_tokens": NEW_TOKENS,
            "steps": 2,
        }
        for model in TINY
    }
    answers = ask(tmp_path, questions, ATEN_CPU_CAPABILITY=capability)
    for model in TINY:
        assert answers[model]["capability"].lower().replace("no avx", "default") in (capability, f"{capability}_vnni")
        assert answers[model]["tokens"] == peer.answers[model]["tokens"]
        for dtype in ("fp32", "bf16"):
            assert answers[model]["dtypes"][dtype]["hash"] == peer.answers[model]["dtypes"][dtype]["hash"]
