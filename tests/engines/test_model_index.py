"""What transformers' model folders export is kept, as transformers reads it, and read again when a file changed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from genqual.engines.hf import model_index

ASK = """
import hashlib, json, sys
from genqual.engines.hf import model_index
if sys.argv[1] == "kept":
    with model_index.kept_index():
        import transformers.models
else:
    import transformers.models
plain = sorted((module, sorted(names)) for module, names in transformers.models._import_structure.items())
print(len(plain), hashlib.sha256(json.dumps(plain).encode()).hexdigest())
print(transformers.models.llama.LlamaConfig.__name__)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small `transformers/models`, and a cache of its own."""
    monkeypatch.setenv("GENQUAL_CACHE", str(tmp_path / "cache"))
    models = tmp_path / "transformers" / "models"
    (models / "llama").mkdir(parents=True)
    (models / "llama" / "configuration_llama.py").write_text('__all__ = ["LlamaConfig"]\n')
    (models / "__init__.py").write_text("")
    return models


class Reader:
    """Counts how often it is asked; gives what the real reader gives."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, path: object) -> model_index.Found:
        from transformers.utils.import_utils import create_import_structure_from_path

        self.asked += 1
        create_import_structure_from_path.cache_clear()  # what it keeps itself is of this process only
        found: model_index.Found = create_import_structure_from_path(str(path))
        return found


def test_what_is_kept_is_what_transformers_reads_of_all_its_models() -> None:
    import transformers

    real = Reader()(Path(str(transformers.__file__)).parent / "models")
    assert len(real) > 300
    assert model_index.decoded(json.loads(json.dumps(model_index.encoded(real)))) == real


def test_it_is_read_once_and_again_when_a_file_changed(folder: Path) -> None:
    read = Reader()
    first = model_index._looking_first(read)(folder)
    assert first == {"llama": {frozenset(): {"configuration_llama": {"LlamaConfig"}}}}
    assert model_index._looking_first(read)(folder / "__init__.py") == first, "the other process asks by a file"
    assert read.asked == 1
    file = folder / "llama" / "configuration_llama.py"
    before = file.stat()
    file.write_text('__all__ = ["LlamaDonfig"]\n')  # as long as it was
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert model_index._looking_first(read)(folder) == {
        "llama": {frozenset(): {"configuration_llama": {"LlamaDonfig"}}}
    }
    assert read.asked == 2
    (folder / "llama" / "modeling_llama.py").write_text('__all__ = ["LlamaModel"]\n')
    found = model_index._looking_first(read)(folder)
    assert found["llama"][frozenset({"torch"})] == {"modeling_llama": {"LlamaModel"}}
    assert read.asked == 3


@pytest.mark.parametrize("text", ["", "{}", "[]", "[[1]]", '[["llama", 3]]', "[[[], 3]]"])
def test_what_is_damaged_is_read_again(folder: Path, tmp_path: Path, text: str) -> None:
    read = Reader()
    first = model_index._looking_first(read)(folder)
    (kept,) = (tmp_path / "cache" / "transformers-models").iterdir()
    kept.write_text(text)
    assert model_index._looking_first(read)(folder) == first
    assert read.asked == 2


def test_where_nothing_can_be_kept_it_is_read(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("no folder")
    read = Reader()
    assert model_index._looking_first(read)(folder) == model_index._looking_first(read)(folder)
    assert read.asked == 2


def test_transformers_is_the_same_with_it(tmp_path: Path) -> None:
    env = {**os.environ, "GENQUAL_CACHE": str(tmp_path)}
    said = [
        subprocess.run([sys.executable, "-c", ASK, how], env=env, check=True, capture_output=True, text=True).stdout
        for how in ("plain", "kept", "kept")
    ]
    assert said[0] == said[1] == said[2]
    assert said[0].endswith("LlamaConfig\n")
    assert len(list((tmp_path / "transformers-models").iterdir())) == 1
