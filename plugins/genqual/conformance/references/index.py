"""Where references lie: found by the hash of the weights they are of. The name of a folder is only a hint.

Only reference.json is read, never the arrays beside it: a folder may hold many references.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from genqual import digest
from genqual.cases import Json
from genqual.conformance.oracle.registry import architecture_of
from genqual.conformance.references.file import JSON_NAME, facts
from genqual.errors import BadInput
from genqual.models import embedded

SHOWN: Final = 12
"""How many digits of a hash a folder's name and a message show."""

# What a configuration says about software and storage; it changes no logit.
_NO_ARITHMETIC: Final = frozenset(
    {"_name_or_path", "_attn_implementation", "architectures", "dtype", "torch_dtype", "transformers_version"}
    | {"use_cache", "auto_map", "bos_token_id", "eos_token_id", "pad_token_id", "quantization_config"}
)

_PLAIN: Final = ("integer", "number", "flag", "choice", "natural")  # kinds of fields with one value


def find(places: Sequence[Path], name: str, sha256: str, config: Mapping[str, Json] | None = None) -> Path | None:
    """The folder of the reference that was made of the weights `sha256`, in the first of `places` that has one.

    In each place the folder called `name` is looked at first. A reference that says which configuration it was made
    with is passed over where `config` differs in it.
    """
    for place in places:
        for folder in _folders(place, name):
            if _weights(folder) == sha256 and not differing(folder, config):
                return folder
    return None


def target(
    place: Path, name: str, sha256: str, config: Mapping[str, Json] | None = None, *, replace: bool = False
) -> Path:
    """The folder in `place` that a reference of the weights `sha256` with `config` is written to.

    The folder that holds one of these, else `name`, else, where that holds another model's, `name` with the first
    digits of the weights' hash, and of the configuration's. With `replace` the folder `name` is taken whatever it has.
    """
    known = find([place], name, sha256, config)
    if known is not None:
        return known
    of_config = digest.of_text(json.dumps(arithmetic(config or {})))
    longer = f"{name}-{sha256[:SHOWN]}"
    names = [name] if replace else [name, longer, f"{longer}-{of_config[:SHOWN]}"]
    return place / next((one for one in names if not (place / one / JSON_NAME).exists()), names[-1])


def why_none(places: Sequence[Path], name: str, sha256: str, config: Mapping[str, Json] | None, advice: str) -> str:
    """Why `find` found nothing: what was looked for and where, what has the name but other weights; `advice` ends it.

    Raises BadInput where a folder called `name` is damaged: what it is of cannot be known.
    """
    said = [f"no reference of {name} (weights {sha256[:SHOWN]}) in {', '.join(map(str, places))}"]
    for place in places:
        for folder in _folders(place, name):
            other = str(facts(folder)["weights_sha256"]) if folder == place / name else _weights(folder)
            if other == sha256 and (keys := differing(folder, config)):
                said.append(f"{folder} is of these weights with another config.json ({', '.join(keys)})")
            elif folder == place / name:
                said.append(f"{folder} is of other weights ({other[:SHOWN]})")
    return f"{'; '.join(said)}; {advice}"


def differing(folder: Path, config: Mapping[str, Json] | None) -> list[str]:
    """The keys of `config` in which the reference in `folder` was made with another value, where it says which."""
    said = facts(folder)
    known = said["generator"].get("config")
    if known is None and said.get("model") in embedded.NAMES:  # made before references said it
        known = arithmetic(embedded.config(str(said["model"])))
    if config is None or not isinstance(known, dict):
        return []
    mine = arithmetic(config)
    # Of an architecture without an oracle nothing here knows what a field is where it is left out.
    removed = set() if said.get("independent", True) else known.keys() - mine.keys()
    other = {key for key in mine.keys() & known.keys() if mine[key] != known[key]}
    return sorted(removed | other | _left_out(mine, known))


def _left_out(mine: Mapping[str, Json], known: Mapping[str, Json]) -> set[str]:
    """Keys that one of two configurations leaves to the architecture, and the other sets to another value.

    Not those that follow from others where they are left out, such as the width of a head.
    """
    scaled = [_scales_rotary(config) for config in (mine, known)]
    found = {"rope_scaling"} if None not in scaled and scaled[0] != scaled[1] else set()
    try:
        read, other = (architecture_of(config).declared(config)[1].read for config in (mine, known))
    except BadInput:
        return found
    for name in read.keys() & other.keys():
        one, two = read[name], other[name]
        plain = one.kind in _PLAIN and one.value is not None and two.value is not None
        found |= {name} if plain and one.value != two.value else set()
    return found


def _scales_rotary(config: Mapping[str, Json]) -> bool | None:
    """Whether rotary angles are scaled; None where each kind of layer says it for itself."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(rope, dict) or any(isinstance(value, dict) for value in rope.values()):
        return None
    return rope.get("rope_type", rope.get("type", "default")) != "default"


def arithmetic(config: Mapping[str, Json]) -> dict[str, Json]:
    """What of a config.json bears on logits: kept in a reference, so that it is used for no other configuration."""
    return {key: value for key, value in sorted(config.items()) if key not in _NO_ARITHMETIC}


def _folders(place: Path, name: str) -> Iterator[Path]:
    """Those of `place` that hold a reference, the one called `name` first."""
    if (place / name / JSON_NAME).is_file():
        yield place / name
    if place.is_dir():
        yield from sorted(one.parent for one in place.glob(f"*/{JSON_NAME}") if one.parent.name != name)


def _weights(folder: Path) -> str:
    """The hash that a reference names; nothing where its file is damaged, which is told when its name is asked for."""
    try:
        return str(facts(folder)["weights_sha256"])
    except (BadInput, KeyError, OSError):
        return ""
