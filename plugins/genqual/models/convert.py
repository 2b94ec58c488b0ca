"""GGUF to a checkpoint directory: `python -m genqual.models.convert SRC.gguf DEST`. Torch; a process of its own."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Final

import torch
from transformers import AutoTokenizer, GenerationConfig

from genqual.cases import Json
from genqual.errors import BadInput
from genqual.models import ggufread, registry, weights
from genqual.models.load import load, state_hash
from genqual.models.rotary_spelling import BASES
from genqual.models.spec import ModelSpec

_NOT_OURS: Final = frozenset({"quantization_config", "_name_or_path", "_model_name_or_path", "transformers_version"})


def convert(source: Path, destination: Path) -> str:
    """Write config.json, safetensors in bf16 and tokenizer.json into `destination`; the canonical hash of its weights.

    Dequantised weights are rounded to bf16, the dtype in which checkpoints are published, so that every dtype of a run
    starts from the same weights. Raises BadInput when the source is not GGUF or the destination is not empty.
    """
    if not source.is_file():
        raise BadInput(f"{source}: no such file; give a .gguf file")
    if destination.exists() and any(destination.iterdir()):
        raise BadInput(f"{destination}: not empty; give a new directory")
    spec = ModelSpec(source.stem, "gguf", str(source.absolute()), ggufread.architecture(source))
    loaded = load(spec, torch.float32)
    # A model loaded from GGUF still counts as quantised, so it does not save, and a config that says so would load as
    # packed blocks again. A fresh model of the same class takes its state.
    described = {name: value for name, value in loaded.config.to_dict().items() if name not in _NOT_OURS}
    fresh = type(loaded)(type(loaded.config)(**described))
    fresh.load_state_dict(loaded.state_dict(), strict=True)
    fresh.to(torch.bfloat16)
    special = {name: described.get(name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    fresh.generation_config = GenerationConfig(do_sample=False, **special)
    destination.mkdir(parents=True, exist_ok=True)
    fresh.save_pretrained(destination)
    _readable_by_both(destination / "config.json")
    write_tokenizer(source, destination)
    written = weights.sha256(registry.resolve(str(destination)))
    if written != state_hash(fresh):
        raise BadInput(f"{destination}: what was written is not what was converted; is the disk full? Remove it")
    return written


def write_tokenizer(source: Path, destination: Path) -> None:
    """Write the tokenizer of a GGUF file into the directory `destination`."""
    AutoTokenizer.from_pretrained(str(source.parent), gguf_file=source.name).save_pretrained(destination)
    _plain_tokenizer(destination, begins_plainly=ggufread.fact(source, "tokenizer.ggml.add_bos_token") is False)


def _readable_by_both(file: Path) -> None:
    """State the rotary base both ways: transformers 4 reads `rope_theta`, 5 `rope_parameters`, neither complains."""
    config = json.loads(file.read_text())
    rope = config.get("rope_parameters") or {"rope_type": "default", "rope_theta": config.get("rope_theta")}
    kinds = {base: rope[kind] for kind, base in BASES.items() if kind in rope} or {"rope_theta": rope}
    if all(said.get("rope_theta") is not None and said.get("rope_type") == "default" for said in kinds.values()):
        _change(file, {base: said["rope_theta"] for base, said in kinds.items()} | {"rope_parameters": rope})


def _plain_tokenizer(destination: Path, *, begins_plainly: bool) -> None:
    # Each version names a class that the other does not know; both know this one.
    config: dict[str, Json] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    if begins_plainly:  # as the file says; transformers 4.55 puts a first token before every prompt regardless
        config["add_bos_token"] = False
        _change(destination / "tokenizer.json", {"post_processor": None})
    _change(destination / "tokenizer_config.json", config)


def _change(file: Path, values: dict[str, Json]) -> None:
    changed = json.loads(file.read_text()) | values
    file.write_text(json.dumps(changed, ensure_ascii=False, indent=2) + "\n")


def main() -> int:
    """The command line; 0 when converted, 2 with one paragraph on stderr when not."""
    parser = argparse.ArgumentParser(prog="python -m genqual.models.convert", description=__doc__)
    parser.add_argument("source", type=Path, help="a .gguf file")
    parser.add_argument("destination", type=Path, help="a new directory")
    parser.add_argument("--tokenizer-only", action="store_true", help="write tokenizer.json, and no weights")
    given = parser.parse_args()
    if given.tokenizer_only:
        write_tokenizer(given.source, given.destination)
        return 0
    try:
        digest = convert(given.source, given.destination)
    except BadInput as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"{digest}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
