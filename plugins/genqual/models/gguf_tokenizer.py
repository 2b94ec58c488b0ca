"""The tokenizer of a GGUF file as a tokenizer.json, made once in a process of its own. No torch here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

from filelock import FileLock

from genqual import digest
from genqual.errors import BadInput, pip_install
from genqual.models import ggufread
from genqual.models.catalogue import cache_dir
from genqual.models.spec import ModelSpec

_MAKE_S: Final = 300.0
_KIND: Final = "tokenizer.ggml.model"


def has_language(spec: ModelSpec) -> bool:
    """Whether the file says how texts become tokens: one that genqual writes of an embedded model does not."""
    return ggufread.fact(Path(spec.location), _KIND) not in (None, "none")


def tokenizer_json(spec: ModelSpec) -> Path:
    """The tokenizer.json of a GGUF file, in the cache. Raises BadInput, with the reason, where none can be made."""
    source = Path(spec.location)
    key = digest.of_text(json.dumps([str(source), *digest.stamp(source)]))
    target = cache_dir() / "tokenizers" / f"{spec.name}-{key[:16]}"
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if not (target / "tokenizer.json").is_file():
            _make(source, target)
    return target / "tokenizer.json"


def _make(source: Path, target: Path) -> None:
    told = f"model {source}: its tokenizer cannot be made of the file"
    command = [sys.executable, "-m", "genqual.models.convert", "--tokenizer-only", str(source), str(target)]
    next_step = f"that needs torch, transformers and gguf ({pip_install('torch', 'transformers', 'gguf')})"
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_MAKE_S)
    except subprocess.TimeoutExpired as error:
        raise BadInput(f"{told} within {_MAKE_S:.0f} s; {next_step}, or give prompts as tokens") from error
    except subprocess.CalledProcessError as error:
        last = " ".join(" ".join(str(error.stderr).splitlines()[-4:]).split())
        raise BadInput(f"{told} ({last}); {next_step}, or give prompts as tokens") from error
