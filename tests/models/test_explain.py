"""`genqual models explain`: ordinary checkpoints and odd ones, by what each would be judged and what is wrong."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from safetensors.numpy import save_file

from genqual.cli import main
from genqual.commands.explain_text import lines
from genqual.commands.explanation import explanation
from tests.conformance.oracle.small import SMALL, parameters
from tests.models.make_gguf import llama_tiny_gguf
from tests.models.quantised.changing import CHECKPOINTS, changed
from tests.models.quantised.test_widening import cut_blocks
from tests.plugin.test_other_architectures import tokenizer

LLAMA: Final[dict[str, Any]] = SMALL["llama"] | {"vocab_size": 320}
OTHER: Final[dict[str, Any]] = LLAMA | {"model_type": "stablelm", "use_qkv_bias": True}


def checkpoint(folder: Path, config: dict[str, Any], weights: dict[str, Any] | None = None) -> Path:
    directory = folder / "a model"  # a path with a space, as a user has one
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config))
    save_file(parameters(config) if weights is None else weights, directory / "model.safetensors", {"format": "pt"})
    tokenizer(directory)
    return directory


def explained(directory: Path, capsys: pytest.CaptureFixture[str], code: int = 0) -> dict[str, Any]:
    with pytest.raises(SystemExit) as stopped:
        main(["models", "explain", str(directory), "--device", "cpu", "--json"])
    assert (stopped.value.code or 0) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    text = "\n".join(lines(found))
    assert text.splitlines()[-1].startswith("Next: ")
    return found | {"text": text}


def why_not(found: dict[str, Any], engine: str, ranks: int) -> str:
    mine = [one for one in found["unsupported"] if one["engine"] == engine]
    return " ".join(one["reason"] for one in mine if "fp32" in one["ranks"].get(str(ranks), []))


@pytest.mark.parametrize("name", sorted(SMALL))
def test_an_ordinary_checkpoint(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = SMALL[name] | {"vocab_size": 320}
    found = explained(checkpoint(tmp_path, config), capsys)
    assert found["judged_by"]["oracle"] == name
    assert found["judged_by"]["independent"] is True
    assert not found["problems"]
    held = sum(array.size for array in parameters(config).values())
    assert found["weights"]["count"] == held
    assert found["weights"]["stored_bytes"] == {"F32": 4 * held}
    assert found["tokenizer"]["status"] == "ok"
    assert found["next"].startswith("genqual reference '")
    assert "--by transformers" not in found["next"]
    assert {"fp32", "bf16"} <= set(next(one for one in found["runs"] if one["engine"] == "transformers")["ranks"]["1"])
    costs = found["estimates"]
    assert costs["reference"]["seconds"] > 0
    assert costs["conformance"]["memory_bytes"] > 16 * held
    assert "estimates" in found["text"]


def test_what_a_token_reads_and_how_far_it_looks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = explained(checkpoint(tmp_path, SMALL["gpt_oss"] | {"vocab_size": 320}), capsys)
    assert found["weights"]["experts"] == {"of": 6, "chosen": 3, "layers": 3}
    assert found["weights"]["windows"] == [16]
    assert found["weights"]["active"] < found["weights"]["count"]


def test_a_hub_id_that_is_not_here_is_a_problem_and_no_architecture_to_ask_transformers_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "checkpoints").mkdir()
    found = explained(Path("checkpoints/nosuch"), capsys, code=1)
    assert f"there is none at {tmp_path / 'checkpoints' / 'nosuch'}" in found["problems"][0]
    assert found["next"].startswith("mend this first: ")
    assert "--by transformers" not in found["text"]
    assert len(found["text"].splitlines()) == 3


def unknown_architecture(directory: Path) -> None:
    (directory / "config.json").write_text(json.dumps(OTHER))


def unknown_field(directory: Path) -> None:
    (directory / "config.json").write_text(json.dumps(LLAMA | {"layer_scale_init": 0.5}))


def quantised(directory: Path) -> None:
    (directory / "config.json").write_text(json.dumps(LLAMA | {"quantization_config": {"quant_method": "unheard-of"}}))
    save_file(
        {"model.embed_tokens.weight": np.zeros((320, 32), np.uint8)}, directory / "model.safetensors", {"format": "pt"}
    )


def broken_tokenizer(directory: Path) -> None:
    (directory / "tokenizer.json").write_text('{"version": "1.0", "model": {"type": "Nonesuch"}}')


def two_rotaries(directory: Path) -> None:
    both = LLAMA | {
        "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0},
        "rope_scaling": {"type": "linear", "factor": 2.0},
    }
    (directory / "config.json").write_text(json.dumps(both))


def missing_shard(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    index = {"weight_map": {"model.embed_tokens.weight": "model-00001-of-00002.safetensors"}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


def one_key_head(directory: Path) -> None:
    config = LLAMA | {"num_key_value_heads": 1}
    (directory / "config.json").write_text(json.dumps(config))
    save_file(parameters(config), directory / "model.safetensors", {"format": "pt"})


def _stored(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    arrays = parameters(LLAMA)
    change(arrays)
    save_file(arrays, directory / "model.safetensors", {"format": "pt"})


def missing_weight(directory: Path) -> None:
    _stored(directory, lambda arrays: arrays.pop("model.layers.0.mlp.up_proj.weight"))


def weight_too_many(directory: Path) -> None:
    _stored(directory, lambda arrays: arrays.update({"model.layers.0.mlp.extra.weight": np.zeros((2, 2), np.float32)}))


def transposed_weight(directory: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    _stored(directory, lambda arrays: arrays.update({name: np.ascontiguousarray(arrays[name].T)}))


ODD: Final[dict[Callable[[Path], None], tuple[int, str]]] = {
    unknown_architecture: (0, "'stablelm' is none of the oracle's architectures"),
    unknown_field: (0, "unknown field: layer_scale_init = 0.5"),
    quantised: (0, "quantised: unheard-of"),
    broken_tokenizer: (1, "PROBLEM: "),
    two_rotaries: (1, "rope_scaling has factor = 2.0"),
    missing_shard: (1, "names model-00001-of-00002.safetensors, which is not there"),
    missing_weight: (1, "missing model.layers.0.mlp.up_proj.weight"),
    weight_too_many: (1, "not used model.layers.0.mlp.extra.weight"),
    transposed_weight: (1, "PROBLEM: model {}: model.layers.0.mlp.up_proj.weight has shape ("),
    one_key_head: (0, "1 key-value head(s) for 2 ranks (4 attention heads)"),
}


@pytest.mark.parametrize("change", ODD, ids=lambda change: change.__name__)
def test_an_odd_checkpoint(change: Callable[[Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, words = ODD[change]
    directory = checkpoint(tmp_path, LLAMA)
    change(directory)
    found = explained(directory, capsys, code)
    assert words.format(directory) in found["text"], found["text"]
    assert found["next"].startswith("mend this first: ") == bool(code)
    assert bool(found["problems"]) == bool(code)
    assert (found["estimates"] is None) or not code
    if change is two_rotaries:
        assert found["text"].count(words) == 2, "as the problem and as the next step, and no third time"
    if change in (unknown_architecture, unknown_field):
        assert found["judged_by"]["independent"] is False
        assert found["next"].endswith("--by transformers")
        assert "not independent" in found["text"]
    if change is unknown_field:
        assert found["judged_by"]["unknown"] == {"layer_scale_init": "0.5"}
    if change is unknown_architecture:
        assert found["weights"]["count"] == sum(array.size for array in parameters(LLAMA).values())
    if change is missing_shard:
        assert found["architecture"] == "llama"
    if change is one_key_head:
        for engine in ("deepspeed-inference", "transformers-tp"):
            assert "1 key-value head(s) for 8 ranks" in why_not(found, engine, 8)


def test_a_gguf_file_that_no_conversion_completes_is_a_problem(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Converting it was the next command, and refuses it for the same reason."""
    whole, cut = tmp_path / "whole.gguf", tmp_path / "scaled.gguf"
    llama_tiny_gguf(whole)
    llama_tiny_gguf(cut, frequencies=(1.0, 2.0, 4.0, 8.0))
    found = explained(cut, capsys, code=1)
    assert "use the directory that the file was converted from" in found["next"]
    assert "convert" not in found["next"].partition("mend this first")[0]
    assert explained(whole, capsys)["next"].startswith(("genqual reference ", "pytest -m "))


def test_weights_that_were_copied_have_the_reference_that_is_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the hash, which small weights have in a second; large ones are not read for an explanation."""
    monkeypatch.setenv("GENQUAL_CACHE", str(tmp_path / "cache"))
    first = checkpoint(tmp_path, LLAMA)
    assert "Reference: none here of these weights" in explained(first, capsys)["text"]
    with pytest.raises(SystemExit) as stopped:
        main(["reference", str(first), "--schemes", "", "--steps", "2"])
    assert not stopped.value.code
    said = capsys.readouterr().err
    moved = first.rename(tmp_path / "moved")
    assert "cache/references/a model" in explained(moved, capsys)["text"]
    assert f"--model='{first}'" in said, "the next command of the reference"
    again = moved.rename(tmp_path / "again")
    monkeypatch.setattr("genqual.commands.explanation.HASHED_BYTES", 100)
    assert "Reference: not looked for, since its weights were not hashed yet" in explained(again, capsys)["text"]


def test_a_reference_that_is_there_is_found_and_the_suite_is_next(capsys: pytest.CaptureFixture[str]) -> None:
    found = explanation("llama-tiny", "cpu")
    assert found["reference"] is not None
    assert "bf16" in found["reference"]["tolerances"]  # type: ignore[index,call-overload,operator]
    assert found["next"] == "pytest -m cpu --model=llama-tiny"
    with pytest.raises(SystemExit) as stopped:
        main(["models", "explain", "llama-tiny", "--device", "abacus"])
    assert stopped.value.code == 4
    assert "known are" in capsys.readouterr().err


def test_it_loads_no_torch() -> None:
    code = "import sys\nfrom genqual.commands.explanation import explanation\n"
    code += "explanation('llama-tiny', 'cpu')\nassert not {'torch', 'transformers'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], timeout=60, check=True)


def test_it_says_in_which_precision_a_checkpoint_that_quantises_activations_is_judged_by_what(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = explained(Path(__file__).parent / "quantised" / "checkpoints" / "ct-w8a8-int8", capsys)
    rounded = "int8, a scale for each token, found at run time"
    assert found["weights"]["quantised"] == "compressed-tensors"
    assert found["weights"]["activations"] == [{"rounded": rounded, "precision": "int8-dynamic"}]
    assert "fp32, bf16, fp16: judged as the model that its weights are, on engines that widen them" in found["text"]
    assert f"int8-dynamic: judged as it declares: activations rounded to {rounded}; tolerance: genqual" in found["text"]
    runs = {one["engine"]: set(one["ranks"].get("1", ())) for one in found["runs"]}
    assert runs["server"] == runs["external"] == {"int8-dynamic"}
    assert {"fp32", "bf16", "fp16", "int8-dynamic"} <= runs["transformers"]
    assert "fp8" not in runs["transformers"]
    assert "unsupported (fp8 on 1): quantises activations at run time: declare --dtype int8-dynamic" in (found["text"])


def test_it_says_why_no_precision_is_what_a_checkpoint_declares(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def by_tensor(config: dict[str, Any]) -> None:
        config["quantization_config"]["config_groups"]["group_0"]["input_activations"]["strategy"] = "tensor"

    found = explained(changed("ct-w8a8-int8", tmp_path / "m", halved=False, config=by_tensor), capsys)
    why = "it quantises activations by one scale for all that enters a layer at once"
    assert f"not judged with its activations: {why}" in found["text"]
    assert "judged as it declares" not in found["text"]
    assert not {"server", "external"} & {one["engine"] for one in found["runs"]}
    assert why in found["text"].partition("  external: unsupported (")[2].splitlines()[0]


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"weight_block_size": [128, 128]}, "PROBLEM: model.layers.0.mlp.down_proj.weight_scale_inv has shape"),
        ({"activation_scheme": "static"}, "there is no model.layers.0.mlp.down_proj.activation_scale"),
    ],
)
def test_pieces_of_a_quantised_weight_that_do_not_fit_are_a_problem(
    said: dict[str, Any], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def torn(config: dict[str, Any]) -> None:
        config["quantization_config"].update(said)

    found = explained(changed("fp8-block", tmp_path / "m", halved=False, config=torn), capsys, code=1)
    assert told in found["text"]
    assert "Next: mend this first: " in found["text"]


def test_it_says_which_quantised_weights_transformers_does_not_widen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = explained(cut_blocks(tmp_path / "m"), capsys)
    assert "its last blocks are cut" in why_not(found, "transformers", 1)
    assert {one["engine"] for one in found["runs"]} == {"server", "external"}


@pytest.mark.parametrize(("name", "method"), [("awq", "awq"), ("gptq-4bit", "gptq"), ("nvfp4", "modelopt")])
def test_engines_that_do_not_widen_a_format_are_unsupported(
    name: str, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = explained(CHECKPOINTS / name, capsys)
    assert f"does not widen {method} weights on load" in why_not(found, "transformers", 1)
    assert {one["engine"] for one in found["runs"]} == {"server", "external"}


@pytest.mark.parametrize("installed", [False, True])
def test_the_package_that_widens_is_named_where_it_is_missing(
    installed: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    stand_in = {"compressed_tensors": real("json") if installed else None}
    monkeypatch.setattr(
        "genqual.commands.explanation.find_spec", lambda name: stand_in[name] if name in stand_in else real(name)
    )

    def missing(name: str, engine: str) -> list[str]:
        runs = explained(CHECKPOINTS / name, capsys)["runs"]
        return next(list(one["missing_packages"]) for one in runs if one["engine"] == engine)

    assert missing("ct-w8a8-int8", "transformers") == ([] if installed else ["compressed-tensors"])
    assert missing("ct-w8a8-int8", "server") == []
    assert missing("fp8-block", "transformers") == []


def test_a_tied_model_reads_no_more_weights_than_it_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = explained(checkpoint(tmp_path, LLAMA | {"tie_word_embeddings": True}), capsys)["text"]
    assert "Weights: " in text
    assert "of which a token reads" not in text


def test_it_says_what_of_a_known_format_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def asymmetric(config: dict[str, Any]) -> None:
        config["quantization_config"]["config_groups"]["group_0"]["input_activations"]["symmetric"] = False

    found = explained(changed("ct-w8a8-int8", tmp_path / "m", halved=False, config=asymmetric), capsys)
    assert "this checkpoint is quantised: config quantization_config" in found["text"]
    assert "input_activations: zero points (symmetric = false): activations are quantised at run" in found["text"]
    assert "the oracle computes unquantised weights" not in found["text"]


def test_of_weights_alone_it_says_nothing_of_activations(capsys: pytest.CaptureFixture[str]) -> None:
    found = explained(Path(__file__).parent / "quantised" / "checkpoints" / "awq", capsys)
    assert (found["weights"]["quantised"], found["weights"]["activations"]) == ("awq", [])
    assert "judged as it declares" not in found["text"]
