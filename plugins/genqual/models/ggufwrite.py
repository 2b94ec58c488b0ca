"""An embedded model as one GGUF file, for llama.cpp and what reads its format. No torch; the package gguf writes.

The file holds no tokenizer (`tokenizer.ggml.model` is "none"): an embedded model has no language, and tokens go in and
come out as ids. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from genqual.atomic import replacing
from genqual.cases import Json
from genqual.errors import BadInput, pip_install
from genqual.models import embedded, weights
from genqual.models.spec import ModelSpec

if TYPE_CHECKING:
    from types import ModuleType

DTYPES: Final = ("fp32", "bf16")
"""Of the matrices; vectors are fp32, as the format wants them. Both hold an embedded model exactly."""


def write(spec: ModelSpec, file: Path, dtype: str = "fp32") -> Path:
    """Write `spec` to `file`. Raises BadInput when it is not embedded, the file is there, or gguf is not installed."""
    if spec.source != "embedded":
        raise BadInput(f"model {spec.name}: only embedded models are written; llama.cpp converts others itself")
    return write_bare(spec, file, dtype)


def write_bare(spec: ModelSpec, file: Path, dtype: str = "fp32") -> Path:
    """The same for any checkpoint of these architectures, whose tokenizer, if it has one, is left behind."""
    if dtype not in DTYPES:
        raise BadInput(f"dtype {dtype!r}: a GGUF file is written in {' or '.join(DTYPES)}")
    if file.exists():
        raise BadInput(f"{file}: is there already; name a new file")
    config = weights.config(spec)
    if unwritten := _unwritten(config):
        raise BadInput(
            f"model {spec.name}: its {unwritten} would be lost in this GGUF file, so another model would be judged; "
            "write a directory, and convert it with llama.cpp's own convert_hf_to_gguf.py"
        )
    try:
        import gguf
    except ImportError as error:
        raise BadInput(f"writing GGUF needs the package gguf ({error}); {pip_install('gguf')}") from error
    with replacing(file) as part:
        made = gguf.GGUFWriter(part, str(config["model_type"]))
        _fill(gguf, made, spec, config, dtype)
    return file


def _fill(gguf: Any, made: Any, spec: ModelSpec, config: dict[str, Json], dtype: str) -> None:
    made.add_name(spec.name)
    made.add_file_type(gguf.LlamaFileType.MOSTLY_BF16 if dtype == "bf16" else gguf.LlamaFileType.ALL_F32)
    made.add_tokenizer_model("none")
    (_describe_bloom if config["model_type"] == "bloom" else _describe_llama)(made, config)
    _tensors(gguf, made, spec, config, dtype)
    made.write_header_to_file()
    made.write_kv_data_to_file()
    made.write_tensors_to_file()
    made.close()


def _unwritten(config: dict[str, Json]) -> str:
    """What of `config` this writer has no words for, by name; empty where it has all."""
    if config["model_type"] == "bloom":
        return ""
    if config["model_type"] != "llama":
        return f"model_type {config['model_type']}"
    width = embedded.size(config, "hidden_size") // embedded.size(config, "num_attention_heads")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default")) if isinstance(rope, dict) else "default"
    told = [f"rotary scaling {kind}"] if kind != "default" else []
    told += [f"head_dim {config['head_dim']}"] if config.get("head_dim") not in (None, width) else []
    told += [name for name in ("attention_bias", "mlp_bias") if config.get(name)]
    return ", ".join(told)


def _describe_llama(made: Any, config: dict[str, Json]) -> None:
    heads = embedded.size(config, "num_attention_heads")
    made.add_context_length(config["max_position_embeddings"])
    made.add_embedding_length(config["hidden_size"])
    made.add_block_count(config["num_hidden_layers"])
    made.add_feed_forward_length(config["intermediate_size"])
    made.add_head_count(heads)
    made.add_head_count_kv(config["num_key_value_heads"])
    made.add_rope_dimension_count(embedded.size(config, "hidden_size") // heads)
    made.add_rope_freq_base(config["rope_theta"])
    made.add_layer_norm_rms_eps(config["rms_norm_eps"])
    made.add_vocab_size(config["vocab_size"])


def _describe_bloom(made: Any, config: dict[str, Json]) -> None:
    made.add_context_length(config["seq_length"])
    made.add_embedding_length(config["hidden_size"])
    made.add_block_count(config["n_layer"])
    made.add_feed_forward_length(4 * embedded.size(config, "hidden_size"))
    made.add_head_count(config["n_head"])
    made.add_head_count_kv(config["n_head"])
    made.add_layer_norm_eps(config["layer_norm_epsilon"])
    made.add_vocab_size(config["vocab_size"])


def _tensors(gguf: ModuleType, made: Any, spec: ModelSpec, config: dict[str, Json], dtype: str) -> None:
    bloom = config["model_type"] == "bloom"
    layers = embedded.size(config, "n_layer" if bloom else "num_hidden_layers")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BLOOM if bloom else gguf.MODEL_ARCH.LLAMA, layers)
    narrow = gguf.GGMLQuantizationType.BF16
    for name, array in weights.read(spec).items():
        stem, _, kind = name.rpartition(".")
        placed = np.ascontiguousarray(arranged(name, array, config))
        # The library knows some names of a BLOOM with transformers' prefix and some without.
        target = f"{names.get_name(stem) or names.get_name(stem.removeprefix('transformer.'))}.{kind}"
        if dtype == "bf16" and placed.ndim > 1:
            made.add_tensor(target, gguf.quants.quantize(placed, narrow), raw_dtype=narrow)
        else:
            made.add_tensor(target, placed)


def arranged(name: str, array: NDArray[np.float32], config: dict[str, Json]) -> NDArray[np.float32]:
    """A weight as llama.cpp reads it: rotary pairs side by side, and all queries before all keys before all values.

    transformers rotates channel i of a head with channel i + width / 2, llama.cpp its Llama's 2 i with 2 i + 1; BLOOM
    keeps q, k and v of one head together, llama.cpp those of all heads.
    """
    if name.endswith(("q_proj.weight", "k_proj.weight")):
        count = embedded.size(config, "num_attention_heads" if "q_proj" in name else "num_key_value_heads")
        halves = array.reshape(count, 2, array.shape[0] // count // 2, *array.shape[1:])
        return halves.swapaxes(1, 2).reshape(array.shape)
    if ".query_key_value." in name:
        count = embedded.size(config, "n_head")
        together = array.reshape(count, 3, array.shape[0] // count // 3, *array.shape[1:])
        return together.swapaxes(0, 1).reshape(array.shape)
    return array
