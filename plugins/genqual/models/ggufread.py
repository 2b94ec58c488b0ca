"""A GGUF file: facts of its header, and its weights by transformers' names, to hash them. No torch; gguf reads.

Weights of Llama and BLOOM only: for others the way llama.cpp arranges a matrix is not known here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from genqual.errors import BadInput, pip_install

KNOWN: Final = ("bloom", "llama")

# What a file may hold that is no weight: frequencies of the rotary angles, made of the configuration.
_NO_WEIGHTS: Final = frozenset({"rope_freqs.weight"})

_LLAMA: Final = {
    **{"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj"},
    **{"attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj"},
    **{"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"},
}
_BLOOM: Final = {
    **{"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"},
    **{"attn_qkv": "self_attention.query_key_value", "attn_output": "self_attention.dense"},
    **{"ffn_up": "mlp.dense_h_to_4h", "ffn_down": "mlp.dense_4h_to_h"},
}
_OUTSIDE: Final = {
    "llama": {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"},
    "bloom": {
        **{"token_embd": "transformer.word_embeddings", "token_embd_norm": "transformer.word_embeddings_layernorm"},
        **{"output_norm": "transformer.ln_f", "output": "lm_head"},  # a file without it has a tied head
    },
}


class _Found(Exception):
    """The field that was looked for: what follows it in the header need not be read."""


def architecture(file: Path) -> str:
    """`general.architecture`: "llama", "bloom". Raises BadInput when the file is not GGUF, torn, or does not say."""
    found = fact(file, "general.architecture")
    if not isinstance(found, str):
        raise BadInput(f"{file}: no general.architecture in its GGUF header; convert it again")
    return found


def fact(file: Path, key: str) -> Any:
    """What the header has under `key`, None when it has no such key. Raises BadInput as `tensors` does.

    The reader of gguf makes two arrays of each token of a vocabulary: 8.7 s of CPU time and 570 MiB for 128,000 tokens
    and 280,000 merges. So it is stopped at the key, which for the architecture is the first one.
    """
    try:
        _opened(file, until=key)
    except _Found as found:
        return found.args[0]
    return None


def tensors(file: Path) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Each weight as transformers names and arranges it, float32, one at a time.

    Raises BadInput where the package gguf is missing, for another architecture, for a tensor that is not known and for
    a quantisation that gguf cannot undo.
    """
    reader, gguf = _opened(file)
    architecture = str(_fact(reader, "general.architecture", file))
    if architecture not in KNOWN:
        raise BadInput(f"{file}: how {architecture} lies in a GGUF file is not known; known are {', '.join(KNOWN)}")
    heads = int(_fact(reader, f"{architecture}.attention.head_count", file))
    field = reader.fields.get(f"{architecture}.attention.head_count_kv")
    key_heads = heads if field is None else int(field.contents())
    for tensor in reader.tensors:
        if tensor.name in _NO_WEIGHTS:
            continue
        try:
            values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError as error:
            raise BadInput(f"{file}: {tensor.name} is {tensor.tensor_type.name}, which gguf cannot undo") from error
        name = _name(tensor.name, architecture, file)
        yield name, np.ascontiguousarray(_arranged(name, values, heads, key_heads), dtype=np.float32)


def scaled_rotary(file: Path) -> str:
    """How the file scales its rotary angles, "rope.scaling.type yarn" or "rope_freqs.weight"; "" where it does not.

    llama.cpp writes Llama 3's scaling as frequencies and every other as facts of the header. Raises BadInput as
    `tensors` does.
    """
    reader, _ = _opened(file)
    for key, field in reader.fields.items():
        if key.endswith(".rope.scaling.type") and field.contents() != "none":
            return f"rope.scaling.type {field.contents()}"
    frequencies = (one.data for one in reader.tensors if one.name == "rope_freqs.weight")
    return "rope_freqs.weight" if any(bool((one != 1.0).any()) for one in frequencies) else ""


def _opened(file: Path, until: str = "") -> tuple[Any, Any]:
    """A reader of the file, and the package gguf. Raises _Found at the field `until`."""
    try:
        import gguf
    except ImportError as error:
        raise BadInput(f"{file}: reading GGUF needs the package gguf ({error}); {pip_install('gguf')}") from error

    class Reader(gguf.GGUFReader):  # type: ignore[misc]
        def _get(self, offset: int, dtype: Any, count: int = 1, *rest: Any, **more: Any) -> Any:
            found = super()._get(offset, dtype, count, *rest, **more)
            if len(found) < count:  # its own takes what is there, and a damaged length has it read nothing for hours
                raise ValueError(f"it ends before byte {offset} + {count} numbers of its header")
            return found

        def _push_field(self, field: Any, *rest: Any, **more: Any) -> Any:
            if field.name == until:
                raise _Found(field.contents())
            return super()._push_field(field, *rest, **more)

    try:
        return Reader(file), gguf
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise BadInput(f"{file}: not a whole GGUF file ({error}); download it again") from error


def _fact(reader: Any, key: str, file: Path) -> Any:
    field = reader.fields.get(key)
    if field is None:
        raise BadInput(f"{file}: its GGUF header has no {key}; convert it again")
    return field.contents()


def _name(stored: str, architecture: str, file: Path) -> str:
    """`blk.3.attn_q.weight`: `model.layers.3.self_attn.q_proj.weight`."""
    stem, _, kind = stored.rpartition(".")
    first, _, rest = stem.partition(".")
    if first == "blk":
        layer, _, part = rest.partition(".")
        inside = (_LLAMA if architecture == "llama" else _BLOOM).get(part)
        if inside is not None:
            return f"{'model.layers' if architecture == 'llama' else 'transformer.h'}.{layer}.{inside}.{kind}"
    elif stem in _OUTSIDE[architecture]:
        return f"{_OUTSIDE[architecture][stem]}.{kind}"
    raise BadInput(f"{file}: what transformers calls its tensor {stored} is not known for {architecture}")


def _arranged(name: str, values: NDArray[Any], heads: int, key_heads: int) -> NDArray[Any]:
    """Undo what `ggufwrite.arranged` does: halves of a head behind each other, q, k and v of a head together."""
    if name.endswith(("q_proj.weight", "k_proj.weight")):
        count = heads if "q_proj" in name else key_heads
        pairs = values.reshape(count, values.shape[0] // count // 2, 2, *values.shape[1:])
        return pairs.swapaxes(1, 2).reshape(values.shape)
    if ".query_key_value." in name:
        apart = values.reshape(3, heads, values.shape[0] // heads // 3, *values.shape[1:])
        return apart.swapaxes(0, 1).reshape(values.shape)
    return values
