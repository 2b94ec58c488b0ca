"""A checkpoint that continues no text is refused by what it is, with what to do, wherever it is given."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from genqual.cli import main
from genqual.models.writes_text import why_no_text
from tests.models.test_explain import LLAMA, checkpoint

T5: dict[str, Any] = {
    **{"model_type": "t5", "is_encoder_decoder": True, "architectures": ["T5ForConditionalGeneration"]},
    **{"vocab_size": 320, "d_model": 32},
}


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (T5, r"t5 \(T5ForConditionalGeneration\) is an encoder with a decoder"),
        ({"model_type": "whisper", "is_encoder_decoder": True}, "whisper is an encoder with a decoder"),
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, r"bert \(BertForMaskedLM\) is a model that"),
        ({"model_type": "qwen3", "architectures": ["Qwen3ForSequenceClassification"]}, "writes no text"),
        ({"model_type": "wav2vec2", "architectures": ["Wav2Vec2ForCTC"]}, "writes no text"),
        ({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, None),
        ({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, None),
        ({"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"]}, None),
        ({"model_type": "bloom", "architectures": ["BloomModel"]}, None),
        ({"model_type": "x", "architectures": ["XForMaskedLM", "XForCausalLM"]}, None),
        ({"model_type": "llama", "is_encoder_decoder": False, "architectures": None}, None),
    ],
)
def test_what_continues_no_text_is_told_by_its_configuration(config: dict[str, Any], told: str | None) -> None:
    found = why_no_text(config)
    assert found is None if told is None else re.search(told, found or "")


def test_explain_and_reference_refuse_it_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = checkpoint(tmp_path, T5, {})
    for command in (["models", "explain", str(directory)], ["reference", str(directory), "--by", "transformers"]):
        with pytest.raises(SystemExit) as stopped:
            main(command)
        assert stopped.value.code not in (0, None)
        said = capsys.readouterr()
        assert "is an encoder with a decoder: genqual judges decoders that continue a text" in said.out + said.err
        assert "starting" not in said.err


LOAD = """
import sys, torch
from genqual.errors import Unsupported
from genqual.models.load import check_known
from genqual.models.registry import resolve
for place in sys.argv[1:]:
    try:
        print(check_known(resolve(place)))
    except Unsupported as reason:
        print(reason)
"""


def test_a_rank_says_unsupported_where_transformers_has_no_causal_model_of_it(tmp_path: Path) -> None:
    places = []
    for name, config in {"t5": T5, "clip": {"model_type": "clip"}, "llama": LLAMA}.items():
        (tmp_path / name).mkdir()
        places.append(str(checkpoint(tmp_path / name, dict(config), {})))
    command = [sys.executable, "-W", "ignore", "-c", LOAD, *places]
    said = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout.splitlines()[-3:]
    assert "is an encoder with a decoder" in said[0]
    assert "has no causal language model of clip" in said[1]
    assert said[2] == "None"


def test_a_config_that_is_no_mapping_is_a_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = checkpoint(tmp_path, LLAMA)
    (directory / "config.json").write_text(json.dumps([LLAMA]))
    with pytest.raises(SystemExit):
        main(["models", "explain", str(directory)])
    said = capsys.readouterr()
    assert "PROBLEM: model" in said.out
    assert "config.json" in said.out
