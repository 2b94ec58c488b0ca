"""Which devices there are, by entry point. Loads their classes on demand; probes nothing, imports no torch."""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points

from genqual.devices.base import Device
from genqual.errors import BadInput

GROUP = "genqual.devices"
_PARTS = (
    *("name", "torch_device", "backend", "native_dtype", "exclusive", "summary"),
    *("probe", "identity", "place", "conditions"),
)


def devices() -> dict[str, Device]:
    """Every registered device by name, sorted; what an entry point names is called without arguments.

    Raises BadInput naming the entry point and its distribution where one cannot be loaded or is no `Device`.
    """
    return dict(_loaded())


def device(name: str) -> Device:
    """The device called `name`. Raises BadInput listing the known names."""
    known = devices()
    if name not in known:
        raise BadInput(f"device {name!r}: genqual knows {', '.join(known)}. Install a plugin that registers {GROUP!r}.")
    return known[name]


@cache
def processor() -> Device:
    """The device of this host's own processor: `cpu` where that is present, else `xeon`, present or not."""
    other = device("cpu")
    return other if other.probe().present else device("xeon")


@cache
def _loaded() -> tuple[tuple[str, Device], ...]:
    found: dict[str, tuple[EntryPoint, Device]] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda p: (p.name, p.value)):
        if point.name in found and found[point.name][0].value != point.value:
            raise BadInput(
                f"device {point.name!r} is registered twice, by {_origin(found[point.name][0])} and {_origin(point)}: "
                f"uninstall one of them"
            )
        found[point.name] = (point, _load(point))
    return tuple((name, loaded) for name, (_, loaded) in found.items())


def _load(point: EntryPoint) -> Device:
    try:
        loaded = point.load()()
    except Exception as error:
        raise BadInput(
            f"device {point.name!r} from {_origin(point)} cannot be loaded: {type(error).__name__}: {error}. "
            f"Mend or uninstall that package."
        ) from error
    known = dir(loaded)  # asks no property, which would probe
    lacking = [part for part in _PARTS if part not in known]
    if lacking or loaded.name != point.name:
        why = f"lacks {', '.join(lacking)}" if lacking else f"calls itself {loaded.name!r}"
        raise BadInput(f"device {point.name!r} from {_origin(point)} {why}: see genqual.devices.base.Device")
    typed: Device = loaded
    return typed


def _origin(point: EntryPoint) -> str:
    """`package 1.2 (module:Class)`, as a person would look for it."""
    package = f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown package"
    return f"{package} ({point.value})"
