"""Every name of the vendor that genqual calls is there with the arguments it gives; a renamed one is found."""

from __future__ import annotations

import ast
import importlib.util
import re
import shutil
from pathlib import Path

import pytest

from .vendor import NAMES, USES, Name, Use, missing

ROOT = Path(__file__).resolve().parents[2]
ENGINE = ROOT / "plugins/genqual/engines/habana/engine.py"
FP8 = ROOT / "plugins/genqual/engines/habana/fp8.py"
SPEC = importlib.util.find_spec("deepspeed")
SITE = Path(str(SPEC.origin)).parents[1] if SPEC else Path()

pytestmark = pytest.mark.skipif(
    not (SITE / "optimum/habana").is_dir(), reason="optimum-habana is not installed; `tox -e hpu-contract` has it"
)


def fields() -> tuple[str, ...]:
    """The fields of a generation config that the engine sets, read from its source: it imports torch."""
    tree = ast.parse(ENGINE.read_text())
    tables = (n for n in ast.walk(tree) if isinstance(n, ast.AnnAssign) and getattr(n.target, "id", "") == "GENERATION")
    (table,) = (n.value for n in tables)
    return (
        *ast.literal_eval(ast.unparse(table or ast.Dict([], [])).replace(": bool", ": 0").replace(": int", ": 0")),
        "ignore_eos",
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The files that the contract names, as they are installed."""
    for file in {name.file for name in NAMES} | {use.file for use in USES}:
        target = tmp_path / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(SITE / file, target)
    return tmp_path


def test_the_vendor_has_every_name_we_call() -> None:
    assert missing(SITE, fields()) == []


def test_every_vendor_module_that_the_engine_imports_is_under_contract() -> None:
    asked = set(
        re.findall(
            r'import_module\("((?:optimum|deepspeed|neural_compressor)[\w.]*)"\)', ENGINE.read_text() + FP8.read_text()
        )
    )
    known = {name.file.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in NAMES}
    assert "neural_compressor.torch.quantization" in asked
    assert asked <= known


@pytest.mark.parametrize("name", NAMES, ids=lambda name: f"{Path(name.file).stem}:{name.name}")
def test_a_renamed_name_is_found(copy: Path, name: Name) -> None:
    last = name.name.rpartition(".")[2]
    file = copy / name.file
    file.write_text(re.sub(rf"\b{last}\b", f"{last}_of_old", file.read_text()))
    assert any(f"no {name.name}" in line for line in missing(copy))


@pytest.mark.parametrize(
    ("name", "argument"), [(name, argument) for name in NAMES for argument in name.arguments], ids=str
)
def test_a_renamed_argument_is_found(copy: Path, name: Name, argument: str) -> None:
    file = copy / name.file
    file.write_text(re.sub(rf"\b{argument}\b", f"{argument}_of_old", file.read_text()))
    assert f"{name.file}: {name.name} takes no {argument}" in missing(copy)


@pytest.mark.parametrize("use", USES, ids=lambda use: use.text)
def test_a_bridge_name_that_the_vendor_no_longer_uses_is_found(copy: Path, use: Use) -> None:
    file = copy / use.file
    file.write_text(file.read_text().replace(use.text, "pass  # "))
    assert f"{use.file}: nothing says {use.text}" in missing(copy)


@pytest.mark.parametrize("field", fields() if ENGINE.is_file() else ())
def test_a_renamed_field_is_found(copy: Path, field: str) -> None:
    file = copy / "optimum/habana/transformers/generation/configuration_utils.py"
    file.write_text(re.sub(rf"self\.{field}\b", f"self.{field}_of_old", file.read_text()))
    assert any(line.endswith(f"has no {field}") for line in missing(copy, fields()))
