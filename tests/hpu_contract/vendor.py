"""What genqual calls of the vendor's packages, and whether a copy of them has it. Reads source, imports none of it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final


@dataclass(frozen=True, slots=True)
class Name:
    """A function or class in a file below site-packages, and the arguments that we give it."""

    file: str
    name: str  # "function" or "Class.method"
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Use:
    """A name of Habana's bridge, which no registry has: optimum-habana or DeepSpeed has to use it as we do."""

    file: str
    text: str  # what stands there


_HABANA: Final = "optimum/habana"
_GENERATION: Final = f"{_HABANA}/transformers/generation"
_INC: Final = "neural_compressor/torch/quantization"

NAMES: Final = (
    Name(f"{_HABANA}/transformers/modeling_utils.py", "adapt_transformers_to_gaudi"),
    Name(
        f"{_GENERATION}/utils.py",
        "GaudiGenerationMixin.generate",
        ("generation_config", "logits_processor", "streamer", "lazy_mode", "hpu_graphs", "kwargs"),
    ),
    Name(f"{_GENERATION}/configuration_utils.py", "GaudiGenerationConfig"),
    Name(f"{_GENERATION}/__init__.py", "GaudiGenerationConfig"),
    Name(f"{_GENERATION}/__init__.py", "GaudiGenerationMixin"),
    Name(f"{_HABANA}/checkpoint_utils.py", "get_ds_injection_policy", ("config",)),
    Name("deepspeed/__init__.py", "init_inference", ("model", "kwargs")),
    Name("deepspeed/comm/comm.py", "init_distributed", ("dist_backend", "verbose")),
    *(Name(f"{_INC}/__init__.py", name) for name in ("FP8Config", "prepare", "convert", "finalize_calibration")),
    Name(f"{_INC}/quantize.py", "prepare", ("model", "quant_config")),
    Name(f"{_INC}/quantize.py", "convert", ("model", "quant_config")),
    Name(f"{_INC}/quantize.py", "finalize_calibration", ("model",)),
    Name(f"{_INC}/config.py", "FP8Config.from_json_file", ("filename",)),
    Name(f"{_INC}/config.py", "FP8Config.measure"),
    Name(f"{_INC}/config.py", "FP8Config.quantize"),
)

FIELDS: Final = Name(f"{_GENERATION}/configuration_utils.py", "GaudiGenerationConfig")
"""Where the fields are read that the engine sets on a generation config."""

USES: Final = (
    Use(f"{_HABANA}/transformers/trainer.py", "from habana_frameworks.torch.hpu import wrap_in_hpu_graph"),
    Use(f"{_GENERATION}/utils.py", "import habana_frameworks.torch.core as htcore"),
    Use(f"{_GENERATION}/utils.py", "torch_hpu.synchronize()"),
    Use("deepspeed/accelerator/hpu_accelerator.py", "self.hpu.set_device("),
    Use("deepspeed/accelerator/hpu_accelerator.py", "self.hpu.current_device()"),
    Use("deepspeed/accelerator/hpu_accelerator.py", "self.hpu.device_count()"),
    Use("deepspeed/accelerator/hpu_accelerator.py", "self.hpu.max_memory_allocated("),
    Use("deepspeed/accelerator/hpu_accelerator.py", "self.hpu.reset_peak_memory_stats("),
    Use("deepspeed/accelerator/hpu_accelerator.py", "_communication_backend_name = 'hccl'"),
)


def missing(site: Path, fields: tuple[str, ...] = ()) -> list[str]:
    """What a site-packages lacks of NAMES, USES and the config's `fields`, one line each."""
    return [*_names(site), *_uses(site), *_fields(site, fields)]


def _names(site: Path) -> Iterator[str]:
    for wanted in NAMES:
        node = _find(site / wanted.file, wanted.name)
        if node is None:
            yield f"{wanted.file}: no {wanted.name}"
        elif isinstance(node, ast.FunctionDef):
            has = {one.arg for one in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)}
            has |= {one.arg for one in (node.args.kwarg, node.args.vararg) if one}
            for argument in wanted.arguments:
                if argument not in has:
                    yield f"{wanted.file}: {wanted.name} takes no {argument}"


def _uses(site: Path) -> Iterator[str]:
    for wanted in USES:
        file = site / wanted.file
        if not file.is_file() or wanted.text not in file.read_text(encoding="utf-8"):
            yield f"{wanted.file}: nothing says {wanted.text}"


def _fields(site: Path, fields: tuple[str, ...]) -> Iterator[str]:
    node = _find(site / FIELDS.file, FIELDS.name)
    # The name of the attribute that the rest of optimum-habana reads, not of the keyword: two of them differ.
    found = {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)} if node else set()
    for name in fields:
        if name not in found:
            yield f"{FIELDS.file}: {FIELDS.name} has no {name}"


def _find(file: Path, name: str) -> ast.AST | None:
    """The definition, or the import that brings it into a package's namespace."""
    if not file.is_file():
        return None
    scope: ast.AST = ast.parse(file.read_text(encoding="utf-8"))
    for part in name.split("."):
        found = next((node for node in ast.iter_child_nodes(scope) if _defines(node, part)), None)
        if found is None:
            return None
        scope = found
    return scope


def _defines(node: ast.AST, name: str) -> bool:
    if isinstance(node, ast.ImportFrom):
        return any((alias.asname or alias.name) == name for alias in node.names)
    return isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == name
