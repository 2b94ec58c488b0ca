"""Tests of other packages that are run with ours, by the entry point group `genqual.suites`. Imports none of them."""

from __future__ import annotations

from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import Final

import pytest

from genqual.errors import BadInput

GROUP: Final = "genqual.suites"
_OURS: Final = "genqual.suites"


def add(config: pytest.Config) -> None:
    """Collect them too, where a whole run was asked for: no path was given, or `--pyargs genqual.suites`.

    Raises BadInput where an entry point names a module that is not there.
    """
    if config.args_source is not pytest.Config.ArgsSource.TESTPATHS and _OURS not in config.args:
        return
    for point in sorted(entry_points(group=GROUP), key=lambda one: one.name):
        try:
            spec = find_spec(point.value)
        except ImportError as error:
            raise BadInput(f"suite {point.name} ({point.value}): {error}; uninstall that package") from error
        if spec is None or spec.origin is None:
            raise BadInput(f"suite {point.name} ({point.value}): no such module; uninstall that package")
        if spec.origin not in config.args:
            config.args.append(spec.origin)
