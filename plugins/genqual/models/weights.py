"""The weights of a model as float32 arrays, and their hash, in a process without torch. Pure: NumPy and files."""

from __future__ import annotations

import json
import math
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from genqual import digest
from genqual.atomic import write_whole
from genqual.cases import Json
from genqual.dtypes import FORMATS
from genqual.errors import BadInput
from genqual.models import embedded, ggufconfig, ggufread, hub, integers, safetensor
from genqual.models.catalogue import cache_dir
from genqual.models.quantised import registry as quantised
from genqual.models.quantised.base import SECTION
from genqual.models.quantised.checkpoint import Dequantised
from genqual.models.spec import ModelSpec

_HEAD: Final = "lm_head.weight"
_HASHED: Final = 4_000_000  # weights that are hashed at once


def config(spec: ModelSpec) -> dict[str, Json]:
    """The Hugging Face config dict of the model whose weights `read` gives: without what it says of quantisation.

    A section `quantization_config` that is not undone here stays in it. Of a GGUF file it is made of the metadata.
    Raises BadInput for a GGUF file whose architecture is not known here, and for a hub id not in the local cache.
    """
    if spec.source == "embedded":
        return embedded.config(spec.location)
    if spec.source == "gguf":
        with _or_convert(spec):
            return ggufconfig.config(Path(spec.location))
    return quantised.plain(stored_config(spec))


def config_if_here(spec: ModelSpec) -> dict[str, Json] | None:
    """The config dict, None where this process cannot read it."""
    try:
        return config(spec)
    except (BadInput, OSError, ValueError):
        return None


def mixes_experts(spec: ModelSpec) -> bool:
    """Whether the config declares a mixture of experts, by any architecture's name for their count; False if unread."""
    return _counts_experts(config_if_here(spec) or {})


def _counts_experts(section: Mapping[str, Json]) -> bool:
    for name, value in section.items():
        if isinstance(value, dict) and _counts_experts(value):
            return True
        counts = isinstance(value, int) and value > 1 and "shared" not in name
        if counts and re.fullmatch(r"(\w+_)?(n|num)_(\w+_)?experts", name):
            return True
    return False


def read(spec: ModelSpec) -> dict[str, NDArray[np.float32]]:
    """Every parameter by transformers' name, dequantised. Raises BadInput as `lazily` does."""
    return dict(lazily(spec))


def lazily(spec: ModelSpec) -> Mapping[str, NDArray[np.float32]]:
    """As `read`, but a weight of a directory or a GGUF file is read, and dequantised, when it is asked for.

    bf16 and f16 are widened exactly. Raises BadInput as `config` does, and, naming the format, where weights are
    quantised in a way that is not undone here.
    """
    if spec.source == "embedded":
        return integers.state(spec.location)
    if spec.source == "gguf":
        with _or_convert(spec):
            return ggufread.GgufTensors(Path(spec.location))
    spec = local(spec)
    entries, named = _named(spec)
    scheme = quantised.scheme_of(stored_config(spec))
    return Dequantised(entries, named, scheme) if scheme else safetensor.Tensors(entries, named)


def shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter by transformers' name, read off headers alone. Raises BadInput as `lazily` does."""
    if spec.source == "embedded":
        return embedded.shapes(spec.location)
    found = lazily(spec)
    if isinstance(found, Dequantised | ggufread.GgufTensors):
        return {name: found.shape(name) for name in found}
    entries, named = _named(local(spec))
    return {name: entries[stored].shape for name, stored in named.items()}


def count(spec: ModelSpec) -> int:
    """Number of weights, read off shapes alone. Raises BadInput as `lazily` does."""
    return sum(math.prod(shape) for shape in shapes(spec).values())


def stored_config(spec: ModelSpec) -> dict[str, Json]:
    """config.json of a directory or a hub id as it is, with what it says of quantisation.

    Raises BadInput when it holds no mapping.
    """
    file = _local(spec) / "config.json"
    read: Json = json.loads(file.read_text())
    if not isinstance(read, dict):
        raise BadInput(f"{file} holds a {type(read).__name__} and no mapping; download it again")
    return read


def _named(spec: ModelSpec) -> tuple[dict[str, safetensor.TensorEntry], dict[str, str]]:
    """The tensors of a directory, and which of them are weights: transformers' name -> stored name."""
    entries = safetensor.checkpoint(_local(spec))
    tied = _tied(spec)
    kept = [stored for stored, entry in entries.items() if not _buffer(stored, entry)]
    names = {_parameter(stored, spec.architecture): stored for stored in kept}
    # A tied head is stored by some checkpoints and left out by others; it is the embedding, never a weight of its own.
    return entries, {name: stored for name, stored in names.items() if not (tied and name == _HEAD)}


def _tied(spec: ModelSpec) -> bool:
    return bool(stored_config(spec).get("tie_word_embeddings", spec.architecture == "bloom"))


def _parameter(stored: str, architecture: str) -> str:
    """transformers' parameter name of a stored tensor."""
    if architecture == "bloom" and not stored.startswith(("transformer.", "lm_head.")):
        return f"transformer.{stored}"  # as bigscience published them
    return stored


def _buffer(stored: str, entry: safetensor.TensorEntry) -> bool:
    """Whether a stored tensor is a buffer that old checkpoints carry along and loaders compute anew.

    Rotary tables, and causal masks (1, 1, positions, positions) with the value that fills them: GPT-2, GPT-NeoX.
    A mask is told from a real bias of the same name by its shape.
    """
    module, _, last = stored.rpartition(".")
    if module.endswith("rotary_emb"):
        return last in ("inv_freq", "cos_cached", "sin_cached")
    if module.endswith(("attn", "attention")):
        mask = last in ("bias", "causal_mask") and len(entry.shape) == 4
        return mask or (last == "masked_bias" and math.prod(entry.shape) == 1)
    return False


def draft_layers(described: Mapping[str, Json]) -> re.Pattern[str]:
    """What the names of layers behind the last begin with, which draft tokens; nothing where there are none."""
    first, drafts = described.get("num_hidden_layers"), described.get("num_nextn_predict_layers")
    if not isinstance(first, int) or not isinstance(drafts, int) or drafts <= 0:
        return re.compile(r"(?!)")
    return re.compile(rf"(model\.)?layers\.({'|'.join(str(first + index) for index in range(drafts))})\.")


def left_aside(spec: ModelSpec) -> frozenset[str]:
    """Names of what a directory stores and no loader needs: buffers, and layers behind the last that draft tokens.

    Of a quantised checkpoint the scales of activations, too, which are no part of the model that its weights are.
    transformers ignores some of them by name, and calls the others unexpected (DeepSeek-V3's drafts by the number of
    the published model's layer only).
    """
    described = stored_config(spec)
    draft = draft_layers(described)
    entries = safetensor.checkpoint(_local(spec))
    aside = frozenset(name for name, entry in entries.items() if _buffer(name, entry) or draft.match(name))
    read = lazily(spec) if quantised.undone(described) else None
    return aside | (read.stored_of_inputs() if isinstance(read, Dequantised) else frozenset())


def hash_state(items: Iterable[tuple[str, NDArray[np.float32]]], others: Mapping[str, bytes] | None = None) -> str:
    """The canonical SHA-256 of a set of named weights, in hex: the same for any order of `items` and on any machine.

    Each tensor is hashed over its name, shape and little-endian float32 bytes, and the digests, sorted by name, are
    hashed again; so tensors may come one at a time. `others` are digests, by name, of what else is stored. Raises
    ValueError on a name given twice or another dtype.
    """
    digests = dict(others or {})
    for name, values in items:
        if name in digests or values.dtype != np.float32:
            raise ValueError(f"{name}: {values.dtype}, must be float32 and come once")
        found = digest.of_bytes(_head(name, values.shape), _bytes(values))
        digests[name] = bytes.fromhex(found)
    return digest.of_parts(digests[name] for name in sorted(digests))


def sha256(spec: ModelSpec) -> str:
    """The canonical hash of a model's weights. For files it is kept in the cache until one of them changes.

    A hub id is what the local hub cache holds of it. A quantised checkpoint is hashed as it is stored, with what its
    config says of that, so that one whose format is not undone here has a hash as well. A GGUF file is hashed over its
    dequantised weights, which equal those of the checkpoint that it was made of where nothing was rounded. Raises
    BadInput where the weights cannot be read.
    """
    if spec.source == "embedded":
        return _embedded_hash(spec.location)
    place = Path(spec.location) if spec.source == "gguf" else _local(spec)
    try:
        kept = cache_dir() / "hashes" / _hash_key(place)
    except OSError as error:
        raise BadInput(f"model {spec.name}: {place} cannot be read ({error}); {_how(spec)}") from error
    if kept.is_file():
        return kept.read_text().strip()
    if spec.source == "gguf":
        values = lazily(spec)
        found = hash_state((name, values[name]) for name in values)
    else:
        found = _stored_hash(local(spec))
    keep(kept, found)
    return found


def _stored_hash(spec: ModelSpec) -> str:
    """The hash of a directory: `hash_state` of weights that are floats, with the digests of what else is stored."""
    entries, named = _named(spec)
    _check_tied(spec, entries)
    narrow = {name: stored for name, stored in named.items() if entries[stored].dtype not in safetensor.WIDE}
    digests: dict[str, bytes] = {}
    for name, stored in narrow.items():
        entry = entries[stored]
        what = f"{name}\0{entry.dtype}\0{','.join(map(str, entry.shape))}\0".encode()
        digests[name] = bytes.fromhex(digest.of_parts(chain([what], safetensor.pieces(stored, entry))))
    section = stored_config(spec).get(SECTION)
    if narrow and section:
        digests[SECTION] = bytes.fromhex(digest.of_text(json.dumps(section, sort_keys=True)))
    for name, stored in named.items():
        if name not in narrow:
            digests[name] = _digest_in_parts(name, stored, entries[stored])
    return hash_state((), digests)


def _digest_in_parts(name: str, stored: str, entry: safetensor.TensorEntry) -> bytes:
    """The digest of a weight as `hash_state` has it, without ever holding all of an embedding."""
    if not entry.shape:
        parts: Iterable[NDArray[np.float32]] = [safetensor.read(stored, entry)]
    else:
        rows = max(1, _HASHED // max(1, math.prod(entry.shape[1:])))
        starts = range(0, entry.shape[0], rows)
        parts = (safetensor.read(stored, entry, (start, min(start + rows, entry.shape[0]))) for start in starts)
    return bytes.fromhex(digest.of_parts(chain([_head(name, entry.shape)], (_bytes(part) for part in parts))))


def _head(name: str, shape: tuple[int, ...]) -> bytes:
    return f"{name}\0{','.join(map(str, shape))}\0".encode()


def _bytes(values: NDArray[np.float32]) -> memoryview:
    return np.ascontiguousarray(values, dtype="<f4").reshape(-1).data


def _check_tied(spec: ModelSpec, entries: Mapping[str, safetensor.TensorEntry]) -> None:
    """Raises BadInput where embeddings are said to be tied, and the head that is stored is no tensor beside it."""
    head = entries.get(_HEAD)
    if head is None or head.dtype not in safetensor.WIDE or not _tied(spec):
        return
    values = safetensor.read(_HEAD, head)
    alike = (
        name
        for name, one in entries.items()
        if name != _HEAD and one.shape == head.shape and one.dtype in safetensor.WIDE
    )
    if not any(np.array_equal(values, safetensor.read(name, entries[name])) for name in alike):
        raise BadInput(
            f"model {spec.name}: tie_word_embeddings is true, yet {_HEAD} differs from the embedding: loaders disagree "
            "which of the two counts, so what is right is not defined; set tie_word_embeddings in config.json to what "
            "the checkpoint means"
        )


def hash_is_kept(spec: ModelSpec) -> bool:
    """Whether `sha256` knows the hash of a directory or a file without reading all of it again."""
    try:
        place = Path(spec.location) if spec.source == "gguf" else _local(spec)
        return (cache_dir() / "hashes" / _hash_key(place)).is_file()
    except (BadInput, OSError):
        return False


def _hash_key(place: Path) -> str:
    """Under which the hash of a directory or a file is kept: its path, and names and stamps of what it holds."""
    listed = [place]
    if place.is_dir():
        listed = sorted(place.glob("*.safetensors")) + sorted(place.glob("*.json"))
    stats = [(file.name, *digest.stamp(file)) for file in listed]
    # The number goes up when what is checked on the way does: 3 looks at the head beside tied embeddings, 4 has stamps.
    return digest.of_text(json.dumps([4, str(place.resolve()), stats]))


@lru_cache(maxsize=16)
def _embedded_hash(name: str) -> str:
    return hash_state(integers.tensors(name))


def keep(file: Path, text: str) -> None:
    """Write `text` to a file of the cache, whole or not at all."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, f"{text}\n".encode())
    except OSError:
        return  # a cache that cannot be written costs time, nothing else


def directory(spec: ModelSpec) -> Path:
    """A checkpoint directory of this model: its own, or an embedded model written once into the cache, in bf16 (exact).

    For engines that load from files only. It holds config.json and model.safetensors, no tokenizer.
    """
    if spec.source != "embedded":
        return _local(spec)  # a quantised checkpoint as it is: what it is loaded as is the engine's
    # A folder that another version wrote may have the same weights with another configuration.
    described = digest.of_text(json.dumps(config(spec), sort_keys=True))
    target = cache_dir() / "built" / f"{spec.name}-{sha256(spec)[:16]}-{described[:8]}"
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=target.parent))
    try:
        (scratch / "config.json").write_text(
            json.dumps(config(spec) | {"torch_dtype": FORMATS["bf16"].torch}, indent=2) + "\n"
        )
        safetensor.write_bf16(scratch / "model.safetensors", integers.state(spec.location))
        scratch.rename(target)
    except OSError:
        if not target.is_dir():  # otherwise another rank was first, with the same bytes
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def local(spec: ModelSpec) -> ModelSpec:
    """`spec` itself, or the directory in the local hub cache that a hub id stands for: what is hashed is then loaded.

    A hub id that is not there, or not as safetensors, stays as it is: the ranks ask the hub for it.
    """
    if spec.source != "hub":
        return spec
    try:
        place = _local(spec)
        architecture = str(json.loads((place / "config.json").read_text())["model_type"])
        safetensor.checkpoint(place)
    except (BadInput, OSError, ValueError, KeyError, TypeError):
        return spec
    return ModelSpec(spec.name, "directory", str(place), architecture)


def _local(spec: ModelSpec) -> Path:
    if spec.source == "directory":
        return Path(spec.location)
    place = hub.snapshot(spec) if spec.source == "hub" else None
    if place is not None and (place / "config.json").is_file():
        return place
    raise BadInput(
        f"model {spec.name}: weights of a {spec.source} model cannot be read outside an engine; {_how(spec)}"
    )


@contextmanager
def _or_convert(spec: ModelSpec) -> Iterator[None]:
    """Around the reading of a GGUF file: BadInput names the other way, too."""
    try:
        yield
    except ggufconfig.OnlyItsSource:
        raise
    except BadInput as reason:
        raise BadInput(f"{reason}. Or {_how(spec)}") from reason
    except OSError as error:
        raise BadInput(f"model {spec.name}: {spec.location} cannot be read ({error}); {_how(spec)}") from error


def _how(spec: ModelSpec) -> str:
    """The next step of somebody whose model can be read by an engine only."""
    if spec.source == "gguf":
        return f"convert it with: python -m genqual.models.convert {spec.location} DIRECTORY"
    return hub.how_to_get(spec)
