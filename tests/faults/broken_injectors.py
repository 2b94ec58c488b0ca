"""A pytest plugin: injectors that break, put into the catalogue for the matrix's own tests. In ranks: the functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from genqual.faults import CATALOGUE, Fault

HERE: Final = "tests.faults.broken_injectors"
BROKEN: Final = (
    Fault("broken_at_once", f"{HERE}:at_once", "its injector raises", group="broken"),
    Fault("broken_later", f"{HERE}:later", "its injector raises in the engine's call", group="broken"),
    Fault("broken_undo", f"{HERE}:undo", "its injector cannot be undone", group="broken"),
)


def pytest_configure() -> None:
    for one in BROKEN:
        CATALOGUE[one.name] = one


def at_once(engine: Any, rank: int) -> Callable[[], None]:
    raise TypeError("takes no such argument")


def later(engine: Any, rank: int) -> Callable[[], None]:
    from genqual.faults.injectors.places import output, places

    def change(hidden: Any) -> Any:
        return hidden + None

    return output(engine, places(engine.model).layer(1).mlp_out, change)


def undo(engine: Any, rank: int) -> Callable[[], None]:
    def broken() -> None:
        raise TypeError("nothing to put back")

    return broken
