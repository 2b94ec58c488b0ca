"""Try a sink again for a while: servers restart and networks blink. What cannot get better is not tried again."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final, TypeVar

from genqual.errors import BadInput, pip_install
from genqual.storage.sinks.base import SinkBusy

T = TypeVar("T")

PATIENCE: Final = "GENQUAL_UPLOAD_PATIENCE"
PATIENCE_S: Final = 30.0  # a database restarts in seconds; a run that has ended should not wait for minutes

_FIRST_S, _LONGEST_S = 0.2, 5.0


def patience_s() -> float:
    """Seconds a sink is tried for, from the environment. Raises BadInput when that is no number of seconds."""
    given = os.environ.get(PATIENCE, "")
    try:
        seconds = float(given or PATIENCE_S)
    except ValueError:
        seconds = -1.0
    if not 0.0 <= seconds < 86_400.0:
        raise BadInput(f"{PATIENCE}={given}: give the seconds that an upload is tried for, such as 30, or 0 for once")
    return seconds


def patiently(action: Callable[[], T]) -> T:
    """What `action` returns; SinkBusy is tried again, waiting longer each time, until the patience has run out."""
    import tenacity

    # Jitter: the processes that a restart threw out must not all come back at the same moment.
    again = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(SinkBusy),
        wait=tenacity.wait_exponential(multiplier=_FIRST_S, max=_LONGEST_S) + tenacity.wait_random(0, _FIRST_S),
        stop=tenacity.stop_after_delay(patience_s()),
        reraise=True,
    )
    return again(action)


def need(module: str, what: str, *, extra: str = "upload", package: str = "") -> None:
    """Raise BadInput, with the command that mends it, where an optional `module` is not installed.

    It comes with genqual's `extra`, or where it has none with `package`.
    """
    from importlib.util import find_spec

    try:
        found = find_spec(module)
    except ValueError:  # put into sys.modules by hand, without a spec
        found = None
    if found is None:
        command = pip_install(package) if package else pip_install(extra=extra)
        raise BadInput(f"{what} needs {module}, which is not installed: {command}")
