"""What the package computes in one place only: SHA-256 and canonical JSON, and the facts of a dtype."""

from __future__ import annotations

import ast
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from genqual import digest
from genqual.dtypes import BY_SAFETENSORS, DTYPES, FORMATS
from tests.house.structure import ROOT, Tree

DIGEST: Final = "plugins/genqual/digest.py"
KEYED: Final = "plugins/genqual/records/pseudonyms.py"  # HMAC names its hash


def hashing(text: str) -> Iterator[str]:
    """What `text` uses of SHA-256 and of canonical JSON, as `hashlib.sha256`."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            name = f"{node.value.id}.{node.attr}"
            if name in ("hashlib.sha256", "hashlib.new", "hashlib.file_digest"):
                yield name
        elif isinstance(node, ast.ImportFrom) and node.module in ("hashlib", "rfc8785"):
            yield f"from {node.module}"
        elif isinstance(node, ast.Import):
            yield from (f"import {alias.name}" for alias in node.names if alias.name == "rfc8785")


def test_one_module_computes_sha256_and_canonical_json() -> None:
    used = {
        path.relative_to(ROOT).as_posix(): found
        for path in Tree().files
        if (found := list(hashing(path.read_text(encoding="utf-8"))))
    }
    assert sorted(used.pop(DIGEST)) == ["hashlib.file_digest", "hashlib.sha256", "import rfc8785"]
    assert used == {KEYED: ["hashlib.sha256"]}


@pytest.mark.parametrize(
    "text",
    ["import hashlib\nhashlib.sha256(b'')", "from hashlib import sha256", "import rfc8785", "hashlib.new('sha256')"],
)
def test_another_place_is_seen(text: str) -> None:
    assert list(hashing(text))


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="no sha256sum here")
@pytest.mark.parametrize("data", [b"", b"abc", bytes(range(256)) * 5000], ids=["empty", "short", "long"])
def test_a_file_is_hashed_as_sha256sum_does(data: bytes, tmp_path: Path) -> None:
    file = tmp_path / "a file"
    file.write_bytes(data)
    said = subprocess.run(["sha256sum", str(file)], capture_output=True, text=True, check=True, timeout=30)
    assert digest.of_file(file) == said.stdout.split()[0]


def test_the_standards_own_example() -> None:
    """FIPS 180-4's example for SHA-256, whole and in parts."""
    example = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert digest.of_text("abc") == digest.of_bytes(b"ab", memoryview(b"c")) == example
    assert digest.of_parts(bytes([code]) for code in b"abc") == example


def test_json_is_hashed_in_its_canonical_form() -> None:
    text = '{"a":[1,2.5,null,"é"],"b":1e-7,"z":{"y":false}}'
    value: Any = {"z": {"y": False}, "b": 1e-7, "a": [1, 2.5, None, "é"]}
    assert json.loads(text) == value
    assert digest.of_json(value) == hashlib.sha256(text.encode()).hexdigest()


PEER = """
import json, torch
from safetensors.torch import save
found = {}
for name in ("float32", "bfloat16", "float16"):
    dtype = getattr(torch, name)
    file = save({"x": torch.tensor([1.5], dtype=dtype)})
    entry = json.loads(file[8 : 8 + int.from_bytes(file[:8], "little")])["x"]
    start, end = entry["data_offsets"]
    eps = torch.finfo(dtype).eps
    found[name] = [entry["dtype"], end - start, dtype.itemsize, (1 / eps).as_integer_ratio()[0].bit_length() - 1]
print(json.dumps(found))
"""


def test_the_dtypes_are_those_of_torch_and_safetensors() -> None:
    assert tuple(FORMATS) == DTYPES
    done = subprocess.run([sys.executable, "-c", PEER], capture_output=True, text=True, check=True, timeout=120)
    peers = json.loads(done.stdout)
    for one in FORMATS.values():
        assert peers.pop(one.torch) == [one.safetensors, one.bytes, one.bytes, one.mantissa]
        assert BY_SAFETENSORS[one.safetensors] is one
    assert not peers
