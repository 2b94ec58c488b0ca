"""The published command of a case, word for word, and every word of it known to the scripts it calls."""

from __future__ import annotations

import ast
import os
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from genqual.commands import hpu
from genqual.engines.specs import OPTIMUM_HABANA
from genqual.errors import BadInput

FACTS: dict[str, Any] = tomllib.loads((Path(__file__).parent / "run_generation.toml").read_text())
SCRIPTS = {"run_generation": "examples/text-generation/run_generation.py", "gaudi_spawn": "examples/gaudi_spawn.py"}


def known(script: str) -> set[str]:
    return {*FACTS[script]["flags"], *FACTS[script]["values"]}


def given(argv: list[str]) -> dict[str, set[str]]:
    """Options of an argument list by the script they are for."""
    at = next(place for place, word in enumerate(argv) if word.endswith("run_generation.py"))
    parts = {"gaudi_spawn": argv[:at], "run_generation": argv[at:]}
    return {name: {word[2:] for word in words if word.startswith("--")} for name, words in parts.items()}


def test_the_command_of_the_post() -> None:
    env, argv = hpu.words("bigscience/bloom", ranks=8)
    assert env == {"PT_HPU_LAZY_MODE": "1"}
    assert shlex.join(argv) == (
        "python3 examples/gaudi_spawn.py --use_deepspeed --world_size 8 examples/text-generation/run_generation.py "
        "--model_name_or_path bigscience/bloom --batch_size 1 --max_new_tokens 100 --use_kv_cache --use_hpu_graphs"
    )


def test_compile_mode_is_eager_and_has_no_graphs() -> None:
    env, argv = hpu.words("bigscience/bloomz-7b1", engine_name="optimum-habana:torch_compile=true")
    assert env == {"PT_HPU_LAZY_MODE": "0", "PT_ENABLE_INT64_SUPPORT": "1"}
    assert "--torch_compile" in argv
    assert "--bf16" in argv
    assert "--use_hpu_graphs" not in argv


def test_dataset_mode_and_fp8() -> None:
    env, argv = hpu.words("bigscience/bloomz-7b1", dataset="JulesBelveze/tldr_news", column="content", dtype="fp8")
    assert env["QUANT_CONFIG"].endswith("maxabs_quant.json")
    assert argv[argv.index("--dataset_name") :][:4] == [
        *("--dataset_name", "JulesBelveze/tldr_news", "--column_name", "content")
    ]


@pytest.mark.parametrize("option", sorted({*hpu.FLAGS, *hpu.VALUES}))
def test_each_option_of_the_engine_is_said_in_words_that_the_script_knows(option: str) -> None:
    value = {"bucket_size": "128", "attn_implementation": "eager"}.get(option, "true")
    _, argv = hpu.words("bigscience/bloomz-7b1", engine_name=f"optimum-habana:{option}={value}", ranks=2, samples=3)
    words = given(argv)
    assert words["run_generation"] <= known("run_generation")
    assert words["gaudi_spawn"] <= known("gaudi_spawn")
    assert {hpu.FLAGS.get(option, option)} <= words["run_generation"]


def test_no_option_of_the_engine_is_forgotten() -> None:
    assert set(OPTIMUM_HABANA.accepts) == {*hpu.FLAGS, *hpu.VALUES, *hpu._NO_WORD}


@pytest.mark.parametrize(
    ("case", "why"),
    [
        ({"engine_name": "transformers"}, "run optimum-habana only"),
        ({"dtype": "fp16"}, "knows bf16, fp32, and fp8"),
        ({"dtype": "fp32", "ranks": 2}, "always takes bf16 under DeepSpeed"),
        ({"engine_name": "optimum-habana:max_graphs=3"}, "max_graphs: run_generation.py has no word for it"),
    ],
)
def test_what_the_script_cannot_do_is_refused(case: dict[str, Any], why: str) -> None:
    with pytest.raises(BadInput, match=why):
        hpu.words("bigscience/bloomz-7b1", **case)


def test_an_embedded_model_is_no_model_of_theirs() -> None:
    with pytest.raises(BadInput, match="built from integers"):
        hpu.words("bloom-tiny")


def test_the_command_line_prints_it() -> None:
    done = CliRunner().invoke(hpu.hpu_command, ["--model", "bigscience/bloom", "--ranks", "8", "--output-dir", "a b"])
    assert done.exit_code == 0, done.output
    assert done.output.startswith("PT_HPU_LAZY_MODE=1 python3 examples/gaudi_spawn.py --use_deepspeed")
    assert done.output.endswith("--output_dir 'a b'\n")


@pytest.mark.skipif("GENQUAL_OPTIMUM_HABANA" not in os.environ, reason="GENQUAL_OPTIMUM_HABANA names no checkout")
@pytest.mark.parametrize("script", SCRIPTS)
def test_the_committed_list_is_what_the_script_says(script: str) -> None:
    tree = ast.parse((Path(os.environ["GENQUAL_OPTIMUM_HABANA"]) / SCRIPTS[script]).read_text())
    flags: set[str] = set()
    values: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
            name = ast.literal_eval(node.args[0])
            action = next((word.value for word in node.keywords if word.arg == "action"), None)
            flag = isinstance(action, ast.Constant) and action.value == "store_true"
            (flags if flag else values).add(name.removeprefix("--"))
    assert set(FACTS[script]["flags"]) <= flags
    assert set(FACTS[script]["values"]) <= values
