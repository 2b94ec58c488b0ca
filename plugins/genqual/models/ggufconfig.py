"""The Hugging Face config of a GGUF file, made of its metadata. No torch; the package gguf reads.

What the metadata cannot say, and llama.cpp computes by rules of its own, is said here as llama.cpp has it: which layers
of Gemma have windows, and by what it divides its scores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from genqual.cases import Json
from genqual.errors import BadInput
from genqual.models.ggufread import opened, required, scaling_of

_WIDE: Final = {"gemma2": 46, "gemma3": 62}
"""Layers of the 27B models, which divide scores by another width than a head's."""


@dataclass(frozen=True, slots=True)
class Metadata:
    """The header of one file."""

    reader: Any
    file: Path
    architecture: str

    def size(self, key: str, default: int | None = None) -> int:
        """An integer of the architecture. Raises BadInput where it is missing without a default."""
        return int(self._said(key, default))

    def number(self, key: str, default: float | None = None) -> float:
        """A float of the architecture. Raises BadInput where it is missing without a default."""
        # A header holds 32 bits. The shortest decimal that they stand for is what was written, and what config.json of
        # the same model says.
        return float(str(np.float32(self._said(key, default))))

    def _said(self, key: str, default: Any) -> Any:
        field = self.reader.fields.get(f"{self.architecture}.{key}")
        if field is None and default is not None:
            return default
        return required(self.reader, f"{self.architecture}.{key}", self.file)

    def has(self, key: str) -> bool:
        """Whether the header says something under a key of the architecture."""
        return f"{self.architecture}.{key}" in self.reader.fields

    def tensor(self, name: str) -> Any | None:
        """A tensor of the file; None where there is none of that name."""
        return next((tensor for tensor in self.reader.tensors if tensor.name == name), None)


class OnlyItsSource(BadInput):
    """A file that lacks what no conversion brings back: only what it was made from will do."""


def why_only_its_source(file: Path) -> list[str]:
    """Why neither the file nor what it is converted to is the model that it was made from; nothing where they are."""
    try:
        config(file)
    except OnlyItsSource as reason:
        return [str(reason)]
    except BadInput:
        pass
    return []


def config(file: Path) -> dict[str, Json]:
    """The config dict. Raises BadInput, naming it, on an architecture or a rotary scaling that is not known here."""
    reader, _ = opened(file)
    architecture = str(required(reader, "general.architecture", file))
    made = _CONFIGS.get(architecture)
    if made is None:
        raise BadInput(
            f"{file}: how {architecture} is configured in a GGUF file is not known; known are {', '.join(_CONFIGS)}"
        )
    scaling = scaling_of(reader)
    if scaling:
        raise OnlyItsSource(
            f"{file}: it scales its rotary angles ({scaling}), and what config.json said of that is not in the file; "
            "use the directory that the file was converted from"
        )
    said = Metadata(reader, file, architecture)
    table = said.tensor("token_embd.weight")
    if table is None:
        raise BadInput(f"{file}: it holds no token_embd.weight: not a whole model; download it again")
    tied = said.tensor("output.weight") is None
    return {"vocab_size": int(table.shape[1]), "tie_word_embeddings": tied, **_special(reader), **made(said)}


def _special(reader: Any) -> dict[str, Json]:
    found: dict[str, Json] = {}
    for name, key in (("bos_token_id", "bos"), ("eos_token_id", "eos"), ("pad_token_id", "padding")):
        field = reader.fields.get(f"tokenizer.ggml.{key}_token_id")
        if field is not None:
            found[name] = int(field.contents())
    return found


def _decoder(said: Metadata, model_type: str) -> dict[str, Json]:
    """What Llama and its relatives have in common."""
    heads, hidden = said.size("attention.head_count"), said.size("embedding_length")
    # As llama.cpp has it: a head is its share of the hidden width unless the file says otherwise, and all of it is
    # turned. Gemma 3 270M says 256, where the share is 160, and nothing of what is turned.
    turned = said.size("rope.dimension_count", said.size("attention.key_length", hidden // heads))
    width = said.size("attention.key_length", turned)
    if turned != width or said.size("attention.value_length", width) != width:
        raise BadInput(
            f"{said.file}: {turned} of {width} channels of a key are turned, of a value there are "
            f"{said.size('attention.value_length', width)}: genqual reads {model_type} from GGUF with all of them alike"
        )
    return {
        "model_type": model_type,
        "hidden_size": hidden,
        "intermediate_size": said.size("feed_forward_length"),
        "num_hidden_layers": said.size("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": said.size("attention.head_count_kv", heads),
        "head_dim": width,
        "rms_norm_eps": said.number("attention.layer_norm_rms_epsilon"),
        "rope_theta": said.number("rope.freq_base", 10000.0),
        "max_position_embeddings": said.size("context_length"),
    }


def _llama(said: Metadata) -> dict[str, Json]:
    if said.size("expert_count", 0):
        raise BadInput(f"{said.file}: a mixture of experts of the llama kind is not read from GGUF; use its directory")
    biases = {"attention_bias": "blk.0.attn_q.bias", "mlp_bias": "blk.0.ffn_up.bias"}
    return _decoder(said, "llama") | {name: said.tensor(one) is not None for name, one in biases.items()}


def _qwen2(said: Metadata) -> dict[str, Json]:
    made = _decoder(said, "qwen2")
    del made["head_dim"]  # Qwen2 has no such field: a head is its share of the hidden width
    return made


def _qwen3(said: Metadata) -> dict[str, Json]:
    return _decoder(said, "qwen3")


def _gemma(said: Metadata, model_type: str) -> dict[str, Json]:
    made = _decoder(said, model_type)
    layers, heads = said.size("block_count"), said.size("attention.head_count")
    wide = layers == _WIDE[said.architecture]
    return made | {
        "sliding_window": said.size("attention.sliding_window"),
        "query_pre_attn_scalar": said.size("embedding_length") // heads if wide else said.size("attention.key_length"),
        "hidden_activation": "gelu_pytorch_tanh",
    }


def _gemma2(said: Metadata) -> dict[str, Json]:
    made, layers = _gemma(said, "gemma2"), said.size("block_count")
    return made | {
        "layer_types": ["full_attention" if i % 2 else "sliding_attention" for i in range(layers)],
        "attn_logit_softcapping": said.number("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": said.number("final_logit_softcapping", 30.0),
    }


def _gemma3(said: Metadata) -> dict[str, Json]:
    made, layers = _gemma(said, "gemma3_text"), said.size("block_count")
    return made | {
        "layer_types": ["sliding_attention" if (i + 1) % 6 else "full_attention" for i in range(layers)],
        "rope_theta": said.number("rope.freq_base", 1000000.0),
        "rope_local_base_freq": said.number("rope.freq_base_swa", 10000.0),
    }


def _bloom(said: Metadata) -> dict[str, Json]:
    made: dict[str, Json] = {
        "model_type": "bloom",
        "hidden_size": said.size("embedding_length"),
        "n_layer": said.size("block_count"),
        "n_head": said.size("attention.head_count"),
        "layer_norm_epsilon": said.number("attention.layer_norm_epsilon"),
    }
    return made | ({"seq_length": said.size("context_length")} if said.has("context_length") else {})


_CONFIGS: Final[Mapping[str, Callable[[Metadata], dict[str, Json]]]] = {
    "bloom": _bloom,
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "llama": _llama,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
}
