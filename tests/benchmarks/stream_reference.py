"""What `genqual reference --stream` takes for a model of a real size: minutes and memory, and estimates of larger ones.

    python -m tests.benchmarks.stream_reference --shape 8b --folder DIR [--schemes bf16] [--keep]

Writes a checkpoint of that shape in DIR (Llama 3's 8B: 16 GB in bf16; "1b" and "tiny" for a try), random, in shards,
and runs the command on it in a process of its own, first without tolerances, then with those of `--schemes`. Nothing is
written anew that is there already. Estimates for 70B and for a mixture of 671B come from the rates of the same minutes,
by the arithmetic that the command announces (`conformance/references/cost.py`).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import resource
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil

from genqual.commands.rates import measured
from genqual.conformance.oracle.registry import architecture_of
from genqual.conformance.references.cost import Size, amount, cost
from genqual.models import safetensor
from genqual.ranks.on_cpu import held_in_memory

_LLAMA: Final[dict[str, Any]] = {
    **{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu", "rms_norm_eps": 1e-5},
    **{"rope_theta": 500000.0, "torch_dtype": "bfloat16", "tie_word_embeddings": False, "attention_bias": False},
    **{"max_position_embeddings": 8192, "bos_token_id": 1, "eos_token_id": 2},
}
SHAPES: Final[dict[str, dict[str, Any]]] = {
    "tiny": {**{"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 4},
             **{"num_key_value_heads": 2, "vocab_size": 4096}},
    "1b": {**{"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32},
           **{"num_key_value_heads": 8, "vocab_size": 128256}},
    "8b": {**{"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32},
           **{"num_key_value_heads": 8, "vocab_size": 128256}},
}  # fmt: skip
"""Llama 3's: 1.5 (untied) and 8.0 thousand million weights."""

LARGER: Final[dict[str, Size]] = {
    "70B, Llama 3": Size(
        weights=70_553_706_496, active=70_553_706_496, largest=855_654_400, layers=80, hidden=8192, vocabulary=128256,
        kept=2 * 8 * 128 * 80, parts=80 * 9 + 3,
    ),
    "671B, DeepSeek-V3 (37B active)": Size(
        weights=671_026_419_200, active=37_552_000_000, largest=11_500_000_000, layers=61, hidden=7168,
        vocabulary=129280, kept=576 * 61, parts=61 * 30,
    ),
}  # fmt: skip
PROMPTS, STEPS = tuple(range(5, 13)), 24
"""What the command draws where there is no tokenizer."""


def main(arguments: list[str]) -> int:
    """Write, measure, print. Exit 1 when the command fails."""
    parser = argparse.ArgumentParser("python -m tests.benchmarks.stream_reference", description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="8b")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--schemes", default="", help="also measure these tolerances, such as bf16")
    parser.add_argument("--keep", action="store_true", help="leave the checkpoint where it is")
    options = parser.parse_args(arguments)
    model = options.folder / options.shape
    # In a process of its own: a process that is started counts what its parent ever held as its own.
    writing = multiprocessing.get_context("spawn").Process(target=written, args=(model, _LLAMA | SHAPES[options.shape]))
    writing.start()
    writing.join()
    size, stored = size_of(model), sum(file.stat().st_size for file in model.glob("*.safetensors"))
    rates = measured(next(model.glob("*.safetensors")))
    print(
        f"{options.shape}: {size.weights / 1e9:.2f} thousand million weights, {amount(stored)}, {os.cpu_count()} cores"
    )
    print(f"rates: {rates}")
    os.environ["GENQUAL_CACHE"] = str(options.folder / "cache")
    code = 0
    for schemes in ["", *([options.schemes] if options.schemes else [])]:
        words = ["--schemes", schemes, *(["--add"] if schemes else [])]
        expected = cost(
            size,
            rates,
            PROMPTS,
            STEPS,
            schemes.split(",") if schemes else [],
            stream=True,
            stored=stored,
            cached=stored < psutil.virtual_memory().available,
            kept=held_in_memory(),
        )
        seconds, cpu, peak, code = run(model, words)
        part = f"tolerances {schemes}" if schemes else "the oracle"
        if schemes:
            expected = replace(expected, oracle_s=0.0)
        said = f"{part}: {seconds / 60:.1f} min, {cpu / 60:.1f} CPU min, at most {amount(peak)} of memory"
        print(f"{said}, exit {code}; expected: {expected.sentence()}", flush=True)
    for name, larger in LARGER.items():
        many = ["bf16"] if options.schemes else []
        kept = held_in_memory()
        expected = cost(larger, rates, PROMPTS, STEPS, many, stream=True, stored=2 * larger.weights, kept=kept)
        print(f"estimate for {name}, bf16: {expected.sentence()}")
    if not options.keep:
        shutil.rmtree(options.folder)
    return code


def size_of(model: Path) -> Size:
    """What costs, by the declaration of its architecture."""
    config = json.loads((model / "config.json").read_text())
    declared, _ = architecture_of(config).declared(config)
    return Size.of(declared)


def run(model: Path, words: list[str]) -> tuple[float, float, int, int]:
    """(seconds, CPU seconds, bytes of memory at most, exit code) of one command and its ranks, in processes of its own.

    Memory is what the processes hold for themselves, summed twice a second. Pages of files that they have mapped are
    not counted: they are the page cache's, which gives them up when they are needed.
    """
    began, before = time.monotonic(), cpu_of_children()
    command = [sys.executable, "-m", "genqual.cli", "reference", str(model), "--stream", *words]
    started = psutil.Popen(command)
    most = 0
    while started.poll() is None:
        most = max(most, own_bytes(started))
        time.sleep(0.5)
    return time.monotonic() - began, cpu_of_children() - before, most, started.returncode


def cpu_of_children() -> float:
    """CPU seconds of all processes that this one started and that have ended, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def own_bytes(process: psutil.Process) -> int:
    """What `process` and those below it hold that is no file's: RssAnon of Linux."""
    total = 0
    with contextlib.suppress(psutil.Error):
        for one in (process, *process.children(recursive=True)):
            with contextlib.suppress(OSError):
                text = Path(f"/proc/{one.pid}/status").read_text()
                total += sum(int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith("RssAnon:"))
    return total


def written(model: Path, config: dict[str, Any]) -> None:
    """A random checkpoint of `config` in `model`, a shard a layer, in little memory; one that is whole is kept."""
    index = model / "model.safetensors.index.json"
    if index.is_file():
        return
    model.mkdir(parents=True, exist_ok=True)
    (model / "config.json").write_text(json.dumps(config, indent=1))
    declared, _ = architecture_of(config).declared(config)
    shards: dict[str, list[str]] = {}
    for name in declared.shapes():
        layer = name.split(".layers.")[-1].split(".")[0] if ".layers." in name else name.split(".")[-2]
        shards.setdefault(f"model-{layer}.safetensors", []).append(name)
    random, shapes = np.random.default_rng(8), declared.shapes()
    for file, names in shards.items():
        safetensor.write_bf16(model / file, {name: drawn(random, name, shapes[name]) for name in names})
        print(f"wrote {file}", file=sys.stderr, flush=True)
    places = {name: file for file, names in shards.items() for name in names}
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))


def drawn(random: np.random.Generator, name: str, shape: tuple[int, ...]) -> Any:
    """Weights of `shape` that bf16 holds; norms of about 1, so that the activations stay alive."""
    values = random.standard_normal(shape, dtype=np.float32)
    values *= np.float32(0.1) if len(shape) == 1 else np.float32(1.0 / np.sqrt(shape[-1]))
    if len(shape) == 1:
        values += np.float32(1.0)
    bits = values.view(np.uint32)
    bits &= np.uint32(0xFFFF0000)
    return values


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
