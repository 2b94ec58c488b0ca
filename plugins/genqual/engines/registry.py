"""Find engines by the entry point group `genqual.engines`. No torch; an entry point may belong to anybody's package."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache
from importlib.metadata import entry_points
from typing import Final

from genqual.cases import Json
from genqual.engines.base import EngineSpec
from genqual.errors import BadInput, did_you_mean

GROUP: Final = "genqual.engines"
_SERVERS: Final = frozenset({"vllm", "sglang", "tgi", "trt-llm", "tensorrt-llm", "ollama", "llama.cpp", "llama-server"})


@lru_cache(maxsize=1)
def engines() -> dict[str, EngineSpec]:
    """Every registered engine by name, sorted. Raises BadInput when an entry point is broken or claims a taken name."""
    found: dict[str, EngineSpec] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        try:
            spec = entry.load()
        except (ImportError, AttributeError) as error:
            raise BadInput(
                f"engine {entry.name!r}: its entry point {entry.value} cannot be loaded ({error}); "
                "mend or uninstall the package that registers it"
            ) from error
        if not isinstance(spec, EngineSpec):
            raise BadInput(f"engine {entry.name!r}: {entry.value} is a {type(spec).__name__}, not an EngineSpec")
        if spec.name != entry.name:
            raise BadInput(f"engine {entry.name!r}: {entry.value} calls itself {spec.name!r}; the two must be one name")
        if entry.name in found and found[entry.name] != spec:
            raise BadInput(f"engine {entry.name!r} is registered twice; uninstall one of the packages that provide it")
        found[entry.name] = spec
    return found


def engine(name: str) -> EngineSpec:
    """The engine called `name`, or `name:option=value+option=value`: then with these options, and called so.

    Values are JSON where they can be (true, 8), else text. Raises BadInput that lists the names, or the options.
    """
    base, _, settings = name.partition(":")
    known = engines()
    if base not in known:
        listing = ", ".join(known) or "none; is genqual installed (pip install -e .)?"
        meant = did_you_mean(base, known)
        if base.lower() in _SERVERS:
            meant = " A server is judged with --engine server --endpoint URL --served-model NAME."
        raise BadInput(f"engine {base!r}: no engine is called so.{meant} Known: {listing}")
    spec = known[base]
    if base == name:
        return spec
    given: dict[str, Json] = {}
    for setting in settings.split("+"):
        option, sign, value = setting.partition("=")
        if option not in spec.accepts or not sign or not value:
            takes = "; ".join(f"{key}={what}" for key, what in spec.accepts.items()) or "no option"
            raise BadInput(f"engine {name!r}: {base} does not accept {setting!r}; it accepts {takes}")
        given[option] = _value(value)
    return replace(spec, name=name, options={**spec.options, **given})


def _value(text: str) -> Json:
    try:
        value: Json = json.loads(text)
    except ValueError:
        return text
    return value
