"""`genqual hpu-command` and `genqual hpu-import`: the way Gaudis were measured before. Starts nothing; no torch."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from genqual.analysis.published.optimum_habana import baselines, results_json
from genqual.cases import Json
from genqual.engines.registry import engine
from genqual.errors import BadInput
from genqual.models.registry import resolve
from genqual.records.record import Record
from genqual.storage.sinks.registry import open_sink

# Options of our engine and what run_generation.py calls them; tests/hpu checks the right side against the script.
FLAGS: Final = {
    **{name: name for name in ("attn_softmax_bf16", "bucket_internal", "clear_hpu_graphs_cache", "limit_hpu_graphs")},
    **{name: name for name in ("reduce_recompile", "reuse_cache", "trim_logits", "torch_compile")},
    **{name: name for name in ("use_flash_attention", "flash_attention_recompute", "flash_attention_causal_mask")},
    "hpu_graphs": "use_hpu_graphs",
}
VALUES: Final = {"bucket_size": "bucket_size", "attn_implementation": "attn_implementation"}
_NO_WORD: Final = ("max_graphs", "static_shapes", "flash_attention_fast_softmax")


def words(
    model: str,
    *,
    engine_name: str = "optimum-habana",
    dtype: str = "bf16",
    ranks: int = 1,
    batch: int = 1,
    input_length: int | None = None,
    new_tokens: int = 100,
    dataset: str | None = None,
    column: str | None = None,
    samples: int | None = None,
    scripts: str = "examples",
) -> tuple[dict[str, str], list[str]]:
    """Environment and argument list of the published command for a case. Raises BadInput where it has no such."""
    spec = engine(engine_name)
    if spec.name.partition(":")[0] != "optimum-habana":
        raise BadInput(f"--engine {engine_name}: the published scripts run optimum-habana only")
    if dtype not in {"fp32", "bf16", "fp8"}:
        raise BadInput(f"--dtype {dtype}: run_generation.py knows bf16, fp32, and fp8 by QUANT_CONFIG")
    if dtype == "fp32" and ranks > 1:
        raise BadInput("--dtype fp32 with several cards: run_generation.py always takes bf16 under DeepSpeed")
    options: dict[str, Json] = {"hpu_graphs": not spec.options.get("torch_compile"), **spec.options}
    compiled = bool(options.get("torch_compile"))
    env = {"PT_HPU_LAZY_MODE": "0", "PT_ENABLE_INT64_SUPPORT": "1"} if compiled else {"PT_HPU_LAZY_MODE": "1"}
    if dtype == "fp8":
        env["QUANT_CONFIG"] = f"{scripts}/text-generation/quantization_config/maxabs_quant.json"
    argv = ["python3"]
    if ranks > 1:
        argv += [f"{scripts}/gaudi_spawn.py", "--use_deepspeed", "--world_size", str(ranks)]
    argv += [f"{scripts}/text-generation/run_generation.py", "--model_name_or_path", _model(model)]
    argv += ["--batch_size", str(batch), "--max_new_tokens", str(new_tokens), "--use_kv_cache"]
    if input_length is not None:
        argv += ["--max_input_tokens", str(input_length)]
    if dtype != "fp32" and ranks == 1:
        argv.append("--bf16")
    for name, value in options.items():
        if name in _NO_WORD:
            raise BadInput(f"option {name}: run_generation.py has no word for it, so there is no equal command")
        if name in VALUES:
            argv += [f"--{VALUES[name]}", str(value)]
        elif value:
            argv.append(f"--{FLAGS[name]}")
    if dataset:
        argv += ["--dataset_name", dataset, *(["--column_name", column] if column else [])]
        argv += ["--dataset_max_samples", str(samples)] if samples else []
    return env, argv


def _model(name: str) -> str:
    spec = resolve(name)
    if spec.source == "embedded":
        raise BadInput(f"--model {name}: built from integers, so that script cannot read it; `genqual models list`")
    return spec.location


@click.command(name="hpu-command")
@click.option("--model", required=True, help="A hub id or a directory, such as bigscience/bloomz-7b1.")
@click.option("--engine", "engine_name", default="optimum-habana", show_default=True, help="With its options.")
@click.option("--dtype", default="bf16", show_default=True, help="bf16, fp32 or fp8.")
@click.option("--ranks", type=click.IntRange(1), default=1, show_default=True, help="Cards.")
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True)
@click.option("--input-length", type=click.IntRange(1), help="Tokens a row; without it, the script's own prompts.")
@click.option("--new-tokens", type=click.IntRange(1), default=100, show_default=True)
@click.option("--dataset", help="Dataset mode: a `datasets` name.")
@click.option("--column", help="Its column of prompts.")
@click.option("--samples", type=click.IntRange(1), help="How many of its rows.")
@click.option("--scripts", default="examples", show_default=True, help="Where a checkout has its examples.")
@click.option("--output-dir", help="Where it shall leave its results.json, for `genqual hpu-import results`.")
def hpu_command(output_dir: str | None, **case: object) -> None:
    """Print the published command that runs a case the old way, ready for a shell.

    \b
      genqual hpu-command --model bigscience/bloomz-7b1 --ranks 8
      genqual hpu-command --model meta-llama/Llama-2-7b-hf --engine optimum-habana:reuse_cache=true --batch 512

    Its "rest token latency" is the time of dispatch: it waits for the device at the first token only.
    """
    model = str(case.pop("model"))
    env, argv = words(model, **case)  # type: ignore[arg-type]  # click gives what the options above say
    argv += ["--output_dir", output_dir] if output_dir else []
    click.echo(" ".join([*(f"{name}={shlex.quote(value)}" for name, value in env.items()), shlex.join(argv)]))


@click.group(name="hpu-import")
def hpu_import() -> None:
    """Bring in what optimum-habana's own scripts and tests measured, as cited records.

    \b
      genqual hpu-import results results.json --card gaudi2 --model bigscience/bloomz-7b1 --to sqlite:///results.db
      genqual hpu-import baselines optimum-habana/tests/baselines/fixture --to sqlite:///results.db
    """


@hpu_import.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--card", type=click.Choice(["gaudi", "gaudi2", "gaudi3"]), required=True)
@click.option("--model", required=True)
@click.option("--dtype", default="bf16", show_default=True)
@click.option("--ranks", type=click.IntRange(1), default=1, show_default=True)
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True)
@click.option("--input-length", type=click.IntRange(1))
@click.option("--new-tokens", type=click.IntRange(1), default=100, show_default=True)
@click.option("--to", "urls", multiple=True, required=True, metavar="URL", help="A sink; may be repeated.")
def results(file: Path, card: str, model: str, urls: tuple[str, ...], **case: object) -> None:
    """FILE is run_generation.py's results.json; it does not say how it was run, so the options do."""
    record = results_json(file, card=card, model=model, **case)  # type: ignore[arg-type]  # as the options above say
    _send(urls, [record])


@hpu_import.command(name="baselines")
@click.argument("place", type=click.Path(path_type=Path, exists=True))
@click.option("--to", "urls", multiple=True, required=True, metavar="URL", help="A sink; may be repeated.")
@click.option("--left-out", is_flag=True, help="Name what was left out, and why.")
def read_baselines(place: Path, urls: tuple[str, ...], left_out: bool) -> None:
    """PLACE is tests/baselines/fixture of a checkout, or one of its files."""
    found = baselines(place)
    _send(urls, found.records)
    click.echo(f"{len(found.left_out)} entries left out{'' if left_out else '; --left-out names them'}")
    for test, why in found.left_out if left_out else []:
        click.echo(f"  {test}: {why}")


def _send(urls: tuple[str, ...], records: Sequence[Record]) -> None:
    for url in urls:
        sink = open_sink(url)
        try:
            click.echo(f"{sink.name}: {len(records)} cited records, {sink.send(records)} new there")
        finally:
            sink.close()
