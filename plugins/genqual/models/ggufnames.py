"""What transformers calls the tensors of a GGUF file, and how it arranges them, by architecture. Pure: NumPy only.

Names are those of llama.cpp's converter. It changes values too: Llama's rotary pairs lie side by side, the queries of
all heads of BLOOM before all keys, and one is added to the norms of Gemma.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from genqual.errors import BadInput


@dataclass(frozen=True, slots=True)
class Arrangement:
    """Names of one architecture: of a layer's tensors and of those outside, without their `.weight` or `.bias`."""

    layers: str
    inside: Mapping[str, str]
    outside: Mapping[str, str] = field(
        default_factory=lambda: {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
    )
    pairs_apart: bool = False
    heads_together: bool = False
    norms_plus_one: bool = False


_ATTENTION: Final = {
    **{"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj"},
    **{"attn_output": "self_attn.o_proj", "attn_norm": "input_layernorm"},
    **{"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"},
}
_DECODER: Final = _ATTENTION | {"ffn_norm": "post_attention_layernorm"}
_QUERY_KEY_NORMS: Final = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_GEMMA: Final = _ATTENTION | {
    **{"post_attention_norm": "post_attention_layernorm", "ffn_norm": "pre_feedforward_layernorm"},
    "post_ffw_norm": "post_feedforward_layernorm",
}
_BLOOM: Final = {
    **{"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"},
    **{"attn_qkv": "self_attention.query_key_value", "attn_output": "self_attention.dense"},
    **{"ffn_up": "mlp.dense_h_to_4h", "ffn_down": "mlp.dense_4h_to_h"},
}
_BLOOM_OUTSIDE: Final = {
    **{"token_embd": "transformer.word_embeddings", "token_embd_norm": "transformer.word_embeddings_layernorm"},
    **{"output_norm": "transformer.ln_f", "output": "lm_head"},  # a file without it has a tied head
}
ARRANGEMENTS: Final[Mapping[str, Arrangement]] = {
    "bloom": Arrangement("transformer.h", _BLOOM, _BLOOM_OUTSIDE, heads_together=True),
    "gemma2": Arrangement("model.layers", _GEMMA, norms_plus_one=True),
    "gemma3": Arrangement("model.layers", _GEMMA | _QUERY_KEY_NORMS, norms_plus_one=True),
    "llama": Arrangement("model.layers", _DECODER, pairs_apart=True),
    "qwen2": Arrangement("model.layers", _DECODER),
    "qwen3": Arrangement("model.layers", _DECODER | _QUERY_KEY_NORMS),
}
"""By `general.architecture`."""

# What a file may hold that is no weight: frequencies of the rotary angles, made of the configuration.
NO_WEIGHTS: Final = frozenset({"rope_freqs.weight"})


def arrangement(architecture: str) -> Arrangement:
    """How `architecture` lies in a file. Raises BadInput on one that is not known here."""
    found = ARRANGEMENTS.get(architecture)
    if found is None:
        raise BadInput(f"how {architecture} lies in a GGUF file is not known; known are {', '.join(ARRANGEMENTS)}")
    return found


def transformers_name(stored: str, architecture: str) -> str:
    """`blk.3.attn_q.weight`: `model.layers.3.self_attn.q_proj.weight`. Raises BadInput on one not known."""
    names = arrangement(architecture)
    stem, _, kind = stored.rpartition(".")
    first, _, rest = stem.partition(".")
    if first == "blk":
        layer, _, part = rest.partition(".")
        if part in names.inside:
            return f"{names.layers}.{layer}.{names.inside[part]}.{kind}"
    elif stem in names.outside:
        return f"{names.outside[stem]}.{kind}"
    raise BadInput(f"what transformers calls its tensor {stored} is not known for {architecture}")


def arranged(name: str, values: NDArray[Any], architecture: str, heads: int, key_heads: int) -> NDArray[np.float32]:
    """`values` of the weight `name` as transformers has them."""
    names = arrangement(architecture)
    if names.pairs_apart and name.rpartition(".")[0].endswith(("q_proj", "k_proj")):
        count = heads if "q_proj" in name else key_heads
        pairs = values.reshape(count, values.shape[0] // count // 2, 2, *values.shape[1:])
        values = pairs.swapaxes(1, 2).reshape(values.shape)
    elif names.heads_together and ".query_key_value." in name:
        apart = values.reshape(3, heads, values.shape[0] // heads // 3, *values.shape[1:])
        values = apart.swapaxes(0, 1).reshape(values.shape)
    elif names.norms_plus_one and name.endswith("norm.weight"):
        values = values - np.float32(1)
    return np.ascontiguousarray(values, dtype=np.float32)
