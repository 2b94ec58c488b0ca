"""A checkpoint's tokenizer.json, read by `tokenizers`, whose errors have no class of their own. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from genqual import digest
from genqual.errors import BadInput, GenqualError


def tokenizer_of(file: Path) -> Any:
    """The tokenizer in `file`, without the padding and truncation that training left behind. Raises BadInput."""
    return _read(str(file), digest.stamp(file))


@contextmanager
def explained(what: str, advice: str) -> Iterator[None]:
    """Turn what `tokenizers` raises in a block into BadInput: `what` it was about, its own words, and `advice`."""
    try:
        yield
    except (GenqualError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # plain Exception for most of what may be wrong; a panic of its Rust is not even one
        words = " ".join(str(error).split())
        raise BadInput(f"{what} ({words[:300]}); {advice}") from error


@lru_cache(maxsize=4)
def _read(file: str, _stamp: tuple[int, ...]) -> Any:
    with explained(f"{file}: not a tokenizer of this `tokenizers` release", "download it again"):
        tokenizer = Tokenizer.from_file(file)
        tokenizer.no_padding()
        tokenizer.no_truncation()
    return tokenizer
