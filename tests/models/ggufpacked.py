"""A GGUF file of ours with its matrices quantised, as llama.cpp publishes them. The package gguf."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import gguf

KINDS: Final = ("Q8_0", "Q4_0", "F16")


def quantised(source: Path, kind: str) -> Path:
    """`source` with every matrix in `kind`, beside it."""
    reader = gguf.GGUFReader(source)
    target = source.with_name(source.name.replace("fp32", kind))
    architecture = reader.fields["general.architecture"].contents()
    made = gguf.GGUFWriter(target, architecture)
    wanted = gguf.GGMLQuantizationType[kind]
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            made.add_key_value(field.name, field.contents(), field.types[0])
    for tensor in reader.tensors:
        if len(tensor.shape) == 2:
            made.add_tensor(tensor.name, gguf.quants.quantize(tensor.data, wanted), raw_dtype=wanted)
        else:
            made.add_tensor(tensor.name, tensor.data)
    made.write_header_to_file()
    made.write_kv_data_to_file()
    made.write_tensors_to_file()
    made.close()
    return target
